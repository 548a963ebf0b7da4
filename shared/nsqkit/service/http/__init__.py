"""A small HTTP/1.1 server on trio: plain handlers at little cost, ASGI applications beside them."""

from nsqkit.service.http.asgi import AsgiApp
from nsqkit.service.http.limits import ByteBudget, Limits
from nsqkit.service.http.message import BadQuery, HttpError, Request, Response, error, json_body, query, text
from nsqkit.service.http.routing import Only, Route, Router
from nsqkit.service.http.server import HttpServer, serve

__all__ = [
    "AsgiApp",
    "BadQuery",
    "ByteBudget",
    "HttpError",
    "HttpServer",
    "Limits",
    "Only",
    "Request",
    "Response",
    "Route",
    "Router",
    "error",
    "json_body",
    "query",
    "serve",
    "text",
]
