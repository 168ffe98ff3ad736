"""Keylime's own handler of POST /v2.6/verify/evidence behind its own route, asked with the files that are named.

Prints one line of JSON for each file: {"valid": …, "failures": […]}. Not here: TLS and the database, which a one-shot
verification does not use.
"""

import json
import os
import sys
import tempfile
import types

os.environ.update(KEYLIME_TEST="on", KEYLIME_DIR=tempfile.mkdtemp())
# Imported for signed policies, which are not used here.
sys.modules.setdefault("gpg", types.ModuleType("gpg"))

import tornado.httpclient  # noqa: E402
import tornado.httpserver  # noqa: E402
import tornado.ioloop  # noqa: E402
import tornado.testing  # noqa: E402
import tornado.web  # noqa: E402
from keylime.cloud_verifier_tornado import VerifyEvidenceHandler  # noqa: E402
from keylime.mba import mba  # noqa: E402

# As its verifier does when it starts; measured boot is not part of this, and there is no configuration file.
mba.load_imports(skip_custom_policies=True)


async def main() -> None:
    route = r"/v?[0-9]+(?:\.[0-9]+)?/verify/evidence"
    server = tornado.httpserver.HTTPServer(tornado.web.Application([(route, VerifyEvidenceHandler, {"override": None})]))
    socket, port = tornado.testing.bind_unused_port()
    server.add_socket(socket)
    client = tornado.httpclient.AsyncHTTPClient()
    for name in sys.argv[1:]:
        with open(name, "rb") as file:
            body = file.read()
        answer = await client.fetch(
            f"http://127.0.0.1:{port}/v2.6/verify/evidence", method="POST", body=body, raise_error=False
        )
        results = json.loads(answer.body)["results"]
        print(json.dumps({"status": answer.code, "valid": results.get("valid"), "failures": results.get("failures", [])}))


tornado.ioloop.IOLoop.current().run_sync(main)
