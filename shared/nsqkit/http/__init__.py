"""A small HTTP/1.1 server on trio: plain handlers at little cost, ASGI applications beside them."""

from nsqkit.http.asgi import AsgiApp
from nsqkit.http.limits import ByteBudget, Limits
from nsqkit.http.message import BadQuery, HttpError, Request, Response, error, json_body, query, text
from nsqkit.http.routing import Only, Route, Router
from nsqkit.http.server import HttpServer, serve

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
