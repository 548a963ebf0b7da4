"""A small HTTP/1.1 server on trio: handlers that return a response, or that stream one."""

from nsqkit.service.http.guard import Guard
from nsqkit.service.http.limits import ByteBudget, ConnectionShare, Limits
from nsqkit.service.http.message import BadQuery, HttpError, Request, Response, error, json_body, query, text
from nsqkit.service.http.routing import Exchange, Only, Route, Router, only_over_tls
from nsqkit.service.http.server import HttpServer, serve
from nsqkit.service.http.streaming import ResponseStream

__all__ = [
    "BadQuery",
    "ByteBudget",
    "ConnectionShare",
    "Exchange",
    "Guard",
    "HttpError",
    "HttpServer",
    "Limits",
    "Only",
    "Request",
    "Response",
    "ResponseStream",
    "Route",
    "Router",
    "error",
    "json_body",
    "only_over_tls",
    "query",
    "serve",
    "text",
]
