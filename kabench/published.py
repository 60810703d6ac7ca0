"""The numbers of agentkeepalive's published benchmark: the defaults of the echo server, the load and the proxy.

Its README has them: 50 sockets, 60 users with 1000 requests each, an answer after 5 ms, free sockets kept for 30 s. The
body is of the size of the one it posts.
"""

PUBLISHED_MAX_SOCKETS = 50
PUBLISHED_USERS = 60
PUBLISHED_REQUESTS_PER_USER = 1000
PUBLISHED_DELAY_S = 0.005
PUBLISHED_FREE_SOCKET_TIMEOUT_S = 30.0
PUBLISHED_BODY = (
    b'{"id":1,"name":"agentkeepalive","published":"2020 trans/sec",'
    b'"sockets":50,"users":60,"delay_ms":5,"filler":"xxxxxxxxxxxxxxxxxx"}'
)
"""The JSON body of about 128 bytes that is posted where nothing else is asked for."""
