"""The smallest fair server around a peer. Runs in the peers' environment, as a process of its own.

python benchmarks/peers/serve.py FOLDER NAME REPLICAS THREADS

POST a 16 kHz 16-bit mono WAV file to any path; the answer is a JSON list of token ids. Each
replica is a thread with a model of its own and takes as many waiting windows as its engine takes at
once. It listens as soon as every replica has transcribed something; the port is then the first line
of stdout.
"""

from __future__ import annotations

import io
import json
import os
import queue
import sys
import threading
import wave
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.peers.engines import ENGINES, Samples

Job = tuple[Samples, "Future[list[int]]"]


def samples_of(data: bytes) -> Samples:
    """Return the samples of a WAV file, f32[n]."""
    with wave.open(io.BytesIO(data)) as file:
        frames = file.readframes(file.getnframes())
    return (np.frombuffer(frames, "<i2") / 32768).astype(np.float32)


def replica(
    folder: Path, name: str, threads: int, jobs: queue.Queue[Job], ready: threading.Semaphore
) -> None:
    """Load a model and answer jobs for ever, a batch of what waits at a time."""
    engine = ENGINES[name](folder, threads)
    engine.transcribe([np.zeros(16_000, np.float32)])
    ready.release()
    while True:
        batch = [jobs.get()]
        while len(batch) < engine.batch and not jobs.empty():
            batch.append(jobs.get())
        try:
            found = engine.transcribe([samples for samples, _ in batch])
        except Exception as error:  # noqa: BLE001 - told to who asked
            for _, future in batch:
                future.set_exception(error)
        else:
            for (_, future), tokens in zip(batch, found, strict=True):
                future.set_result(tokens)


class Server(ThreadingHTTPServer):
    """A thread a connection, and room for many that arrive together."""

    request_queue_size = 128


def main() -> None:
    """Serve until killed."""
    told = os.dup(1)
    os.dup2(2, 1)  # so that what an engine prints is not taken for the port, and fills no pipe
    folder, name = Path(sys.argv[1]), sys.argv[2]
    replicas, threads = int(sys.argv[3]), int(sys.argv[4])
    jobs: queue.Queue[Job] = queue.Queue()
    ready = threading.Semaphore(0)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer([])

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            future: Future[list[int]] = Future()
            jobs.put((samples_of(data), future))
            self._answer(future.result())

        def _answer(self, content: list[int]) -> None:
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    for _ in range(replicas):
        work = (folder, name, threads, jobs, ready)
        threading.Thread(target=replica, args=work, daemon=True).start()
    for _ in range(replicas):
        ready.acquire()
    server = Server(("127.0.0.1", 0), Handler)
    with os.fdopen(told, "w") as parent:
        print(server.server_port, file=parent)
    server.serve_forever()


if __name__ == "__main__":
    main()
