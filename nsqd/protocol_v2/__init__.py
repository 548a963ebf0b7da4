"""NSQ's TCP protocol V2, the broker's side.

    connections.py    the loop that serves all connections: one task, an epoll of its own, one round after the other
    connection.py     one socket and its session; output.py: frames that the socket has not taken; layers.py: TLS and
                      compression in between
    session.py        the protocol without any I/O: bytes in, calls on the broker, frames out. With its parts:
                      phase.py (its life), partial.py (a command in pieces), deadlines.py (heartbeats and time limits),
                      answers.py (their order, and what they wait for), authorization.py, buffers.py (the memory that
                      all connections share)
    commands.py       what each command does; framing.py: from bodies to frames; identify.py: IDENTIFY
    context.py        what all sessions share; client_stats.py: a connection as /stats shows it

Imports point from the top of this list to its bottom, with one exception: commands.py knows the session, and the
connection hands its table to each session.
"""
