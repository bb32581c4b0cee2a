"""The server under Ray Serve: replicas on one machine or many, behind Ray's own proxy.

    pip install "ray[serve]"
    python examples/serving/ray_serve.py --model checkpoints/deepspeech2-english-live --replicas 2

Ray routes each stream to a replica and starts one again that has died. Each replica is the whole application of
`deepspeech2 serve`, its limits included; the proxy listens on the loopback address.

Ray ends itself ("timed out during startup", or "Timed out waiting for file …") if its own ten processes have not started
within 15 to 30 seconds, which no setting changes: two idle cores are enough, cores that other programs keep busy are not.
"""

import argparse
import os
import signal
from pathlib import Path

import ray
from fastapi import FastAPI
from ray import serve

from modeling_deepspeech2.serving.app import create_app
from modeling_deepspeech2.serving.limits import Limits
from modeling_deepspeech2.serving.service import Service


def deploy(model: str, replicas: int, max_streams: int, port: int) -> None:
    """Starts the replicas and returns when they are ready."""

    def build() -> FastAPI:
        return create_app(Service([model], limits=Limits(max_streams=max_streams)))

    @serve.deployment(
        num_replicas=replicas,
        max_ongoing_requests=max_streams + 20,
        ray_actor_options={"num_cpus": 1},
        graceful_shutdown_timeout_s=20,
    )
    @serve.ingress(build)
    class Transcription:
        pass

    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(Transcription.bind())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a model, or its name on the Hub")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--max_streams", type=int, default=60, help="live streams of each replica (%(default)s)")
    parser.add_argument("--port", type=int, default=8000)
    settings = parser.parse_args()
    model = str(Path(settings.model).absolute()) if Path(settings.model).exists() else settings.model
    # Ray runs its workers at a low priority and gives up on one that has not started within a minute.
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_worker_register_timeout_seconds", "600")
    # Audio does not go through the object store, which would take 30 % of the memory.
    ray.init(num_cpus=max(2, settings.replicas), object_store_memory=100_000_000)
    deploy(model, settings.replicas, settings.max_streams, settings.port)
    print(f"{settings.replicas} replicas at http://127.0.0.1:{settings.port}/; Ctrl-C ends them", flush=True)
    try:
        signal.pause()
    except KeyboardInterrupt:
        serve.shutdown()


if __name__ == "__main__":
    main()
