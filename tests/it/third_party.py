"""A client that knows nothing of Llamero: nats-py from PyPI and JSON by hand.

Usage: third_party.py URL

Lists, predicts, streams and interrupts, and checks what a client may rely on.
Exits with 0 when all of it holds; a failed check ends with a traceback.
"""

import asyncio
import json
import sys

import nats

SUBJECT = "llm.worker.default"
PATIENCE = 120


async def call(client, text):
    message = await client.request(SUBJECT, text.encode(), timeout=PATIENCE)
    return json.loads(message.data)


async def stream(client, job, options, on_text):
    """Runs one streaming job; returns the ack and the message that ended it."""
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox)
    await client.flush()
    predict = {"input": ["Once upon a time"], "stream": inbox, "options": options}
    ack = await call(client, json.dumps({"job": job, "predict": predict}))
    while True:
        message = json.loads((await subscription.next_msg(timeout=PATIENCE)).data)
        assert message["job"] == job, message
        if "stream" not in message:
            await subscription.unsubscribe()
            return ack, message
        await on_text(message["stream"]["output"])


async def main(url):
    client = await nats.connect(url)

    answer = await call(client, '{"job": "list-1", "list": {}}')
    assert answer["job"] == "list-1", answer
    models = [model["model"] for model in answer["list"]["models"]]
    assert models, answer
    assert answer["list"]["models"][0]["options"][0]["name"] == "model", answer

    answer = await call(
        client,
        '{"job": "predict-1", "predict": {"input": ["The capital of France is"],'
        ' "options": {"temperature": 0, "max_tokens": 8}}}',
    )
    assert answer["job"] == "predict-1", answer
    assert "Paris" in answer["predict"]["output"], answer

    pieces = []

    async def collect(text):
        pieces.append(text)

    ack, last = await stream(client, "stream-1", {"max_tokens": 40, "ignore_eos": True}, collect)
    assert ack == {"job": "stream-1"}, ack
    assert "".join(pieces) == last["predict"]["output"], (pieces, last)
    assert pieces, last

    stopped = []

    async def stop(_text):
        if not stopped:
            stopped.append(await call(client, '{"job": "stream-2", "interrupt": {}}'))

    _, last = await stream(client, "stream-2", {"max_tokens": 3000, "ignore_eos": True}, stop)
    assert stopped == [{"job": "stream-2", "interrupt": {}}], stopped
    assert last["error"] == {"code": 8, "error": "prediction interrupted"}, last

    answer = await call(client, '{"job": "nobody", "interrupt": {}}')
    assert answer["error"]["code"] == 4, answer

    await client.drain()
    print(f"third party: listed {models}, predicted, streamed, interrupted")


asyncio.run(main(sys.argv[1]))
