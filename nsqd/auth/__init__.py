"""Authorization by AUTH: looking the secret up among the tokens, or asking the auth servers, and keeping to the result.

    authorizer = Authorizer(options, fetcher)
    state = await authorizer.query(AuthRequest(secret=secret, remote_ip="10.0.0.7"))
    if not state.allows("orders", "billing"): ...

A server is asked once when a client authenticates, and again when the answer has expired; every check in between is a
look-up in memory. Sessions, which never wait, ask through `AuthQueries`.
"""

from nsqd.auth.authorizer import Authorizer, AuthRequest
from nsqd.auth.queries import AuthClient, AuthQueries
from nsqd.auth.state import AuthFailed, Authorization, AuthState

__all__ = [
    "AuthClient",
    "AuthFailed",
    "AuthQueries",
    "AuthRequest",
    "AuthState",
    "Authorization",
    "Authorizer",
]
