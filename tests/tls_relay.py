"""A TLS door in front of a private redis-server, which may have none of its own.

``tls/server.pem`` (key and certificate of localhost, for a hundred years) and ``tls/ca.pem``, who
signed it, were made with openssl for these tests alone, and open nothing else.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

TLS = Path(__file__).resolve().parent / "tls"
CA = TLS / "ca.pem"
_CHUNK_BYTES = 65536
#: What is aborted is closed a few rounds of the loop later.
_CLOSING_SECONDS = 0.1


@contextlib.contextmanager
def tls_relay(socket: Path) -> Iterator[int]:
    """Relay TLS connections on a port of localhost, which is given, to a server's socket."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(_listen(socket))
    thread = Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(_end(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _listen(socket: Path) -> asyncio.Server:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(TLS / "server.pem")

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, asked = await asyncio.open_unix_connection(str(socket))
        try:
            await asyncio.gather(_pump(reader, asked), _pump(answers, writer))
        except asyncio.CancelledError:  # at the end; asyncio would print it
            return
        finally:
            for one in (asked, writer):
                one.transport.abort()

    return await asyncio.start_server(relay, "localhost", 0, ssl=context)


async def _end(server: asyncio.Server) -> None:
    server.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.sleep(_CLOSING_SECONDS)


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await source.read(_CHUNK_BYTES):
            target.write(chunk)
            await target.drain()
    target.transport.abort()
