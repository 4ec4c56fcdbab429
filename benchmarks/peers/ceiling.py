"""Servers that do nothing with an image but answer: the most that uvicorn, and a route of FastAPI, let through.

python -m benchmarks.peers.ceiling PORT asgi|fastapi
"""

import sys

import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.types import Receive, Scope, Send

from server.protocol import OneWriteProtocol

ANSWER = (
    b'{"label":"cat","class_id":3,"confidence":0.914321,"top":[],"model":{"name":"cifar_net","version":"642064ae5e52"}}'
)
fastapi_app = FastAPI()


async def asgi_app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await receive()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": ANSWER})


@fastapi_app.post("/predict")
async def predict(request: Request) -> Response:
    await request.body()
    return Response(ANSWER, media_type="application/json")


if __name__ == "__main__":
    app = {"asgi": asgi_app, "fastapi": fastapi_app}[sys.argv[2]]
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False, http=OneWriteProtocol)
