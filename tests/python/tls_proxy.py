"""A proxy that adds TLS to a server without it.

    tls_proxy.py CERTIFICATE KEY PORT    PORT is the server's; prints its own port, runs until it is killed
"""

import asyncio
import ssl
import sys


async def pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass  # One side closed; closing the other side informs it.
    finally:
        writer.close()


async def main(certificate, key, port):
    async def connected(reader, writer):
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", int(port))
        await asyncio.gather(pump(reader, server_writer), pump(server_reader, writer))

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main(*sys.argv[1:]))
