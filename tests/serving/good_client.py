"""A client that does everything right, beside those that do not."""

import contextlib
import json

import numpy as np
import websockets


def pcm(waveform: np.ndarray) -> bytes:
    return (waveform * 32_767).clip(-32_768, 32_767).astype("<i2").tobytes()


@contextlib.asynccontextmanager
async def good_stream(server, good):
    """A good stream of which one half comes before the bad client, and the other after it."""
    content, expected = good
    async with websockets.connect(server.url.replace("http", "ws"), additional_headers=server.headers) as stream:
        await stream.send(content[:20_000])
        await stream.recv()
        yield
        await stream.send(content[20_000:])
        texts = [json.loads(await stream.recv()).get("text")]
        await stream.send('{"eof": 1}')
        texts.append(json.loads(await stream.recv())["text"])
        assert " ".join(filter(None, texts)) == expected
