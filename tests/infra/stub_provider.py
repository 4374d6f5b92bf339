"""Serves a derived schema to Terraform, so that it checks configurations without the real provider.

    python stub_provider.py SCHEMA.json               # started by Terraform, once for each of its steps
    python stub_provider.py SCHEMA.json --standing    # for many steps: prints how Terraform reaches it

Terraform does all the checking (arguments, types, blocks), and mocks what is planned and applied; this
process answers only what `validate` and `test` with `mock_provider` ask. It runs in an environment of its
own, with the protocol's generated code from the package `tf`, and imports nothing of this project.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from tf.gen import grpc_controller_pb2 as controller
from tf.gen import grpc_controller_pb2_grpc as controller_rpc
from tf.gen import grpc_stdio_pb2_grpc as stdio_rpc
from tf.gen import tfplugin_pb2 as plugin
from tf.gen import tfplugin_pb2_grpc as plugin_rpc
from tf.runner import _self_signed_cert  # go-plugin's handshake needs one, and the package has it

_CAN = plugin.ServerCapabilities(get_provider_schema_optional=True)


def _block(block: Mapping[str, Any]) -> Any:
    modes = plugin.Schema.NestedBlock.NestingMode
    return plugin.Schema.Block(
        attributes=[
            plugin.Schema.Attribute(
                name=name,
                type=json.dumps(attribute["type"]).encode(),
                required=attribute["required"],
                optional=attribute["optional"],
                computed=attribute["computed"],
            )
            for name, attribute in sorted(block["attributes"].items())
        ],
        block_types=[
            plugin.Schema.NestedBlock(
                type_name=name,
                nesting=modes.Value(nested["mode"]),
                min_items=nested["min"],
                max_items=nested["max"],
                block=_block(nested["block"]),
            )
            for name, nested in sorted(block["blocks"].items())
        ],
    )


def _schemas(blocks: Mapping[str, Any]) -> dict[str, Any]:
    return {name: plugin.Schema(block=_block(block)) for name, block in blocks.items()}


class _Provider(plugin_rpc.ProviderServicer):  # type: ignore[misc] # generated, without types
    """Answers with the schema, and accepts every configuration that Terraform found to fit it."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = schema

    def GetMetadata(self, _request: Any, _context: Any) -> Any:  # noqa: N802 - the protocol's name
        metadata = plugin.GetMetadata
        return metadata.Response(
            server_capabilities=_CAN,
            resources=[metadata.ResourceMetadata(type_name=name) for name in self._schema["resources"]],
            data_sources=[
                metadata.DataSourceMetadata(type_name=name) for name in self._schema["data_sources"]
            ],
        )

    def GetProviderSchema(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        return plugin.GetProviderSchema.Response(
            provider=plugin.Schema(block=_block(self._schema["provider"])),
            resource_schemas=_schemas(self._schema["resources"]),
            data_source_schemas=_schemas(self._schema["data_sources"]),
            server_capabilities=_CAN,
        )

    def ValidateProviderConfig(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        return plugin.ValidateProviderConfig.Response()

    def ValidateResourceConfig(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        return plugin.ValidateResourceConfig.Response()

    def ValidateDataResourceConfig(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        return plugin.ValidateDataResourceConfig.Response()

    def ConfigureProvider(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        return plugin.ConfigureProvider.Response()

    def StopProvider(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        return plugin.StopProvider.Response()


class _Controller(controller_rpc.GRPCControllerServicer):  # type: ignore[misc]
    """Ends the process when Terraform asks for it."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    def Shutdown(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        self.ended.set()
        return controller.Empty()


class _Stdio(stdio_rpc.GRPCStdioServicer):  # type: ignore[misc]
    """go-plugin asks for a stream of output; there is none."""

    def StreamStdio(self, _request: Any, _context: Any) -> Iterator[Any]:  # noqa: N802
        return iter(())


def stand(schema: Mapping[str, Any]) -> None:
    """Answer on a Unix socket until the process is ended; see Terraform's TF_REATTACH_PROVIDERS."""
    server = grpc.server(futures.ThreadPoolExecutor(10))
    plugin_rpc.add_ProviderServicer_to_server(_Provider(schema), server)
    stdio_rpc.add_GRPCStdioServicer_to_server(_Stdio(), server)
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder) / "provider.sock"
        server.add_insecure_port(f"unix://{socket}")
        server.start()
        address = {"Network": "unix", "String": str(socket)}
        reached = {"Protocol": "grpc", "ProtocolVersion": 6, "Pid": os.getpid(), "Test": True}
        sys.stdout.write(f"{json.dumps({**reached, 'Addr': address})}\n")
        sys.stdout.flush()
        sys.stdin.read()  # until the one who started it closes the pipe, or ends
        server.stop(grace=0.2).wait()


def serve(schema: Mapping[str, Any]) -> None:
    """Answer on a Unix socket until Terraform ends it."""
    server = grpc.server(futures.ThreadPoolExecutor(10))
    plugin_rpc.add_ProviderServicer_to_server(_Provider(schema), server)
    ends = _Controller()
    controller_rpc.add_GRPCControllerServicer_to_server(ends, server)
    stdio_rpc.add_GRPCStdioServicer_to_server(_Stdio(), server)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl+C: Terraform ends its providers
    with tempfile.TemporaryDirectory() as folder:
        certificate, credentials = _self_signed_cert()
        socket = Path(folder) / "provider.sock"
        server.add_secure_port(f"unix://{socket}", credentials)
        server.start()
        encoded = base64.b64encode(certificate).decode().rstrip("=")
        sys.stdout.write(f"1|6|unix|{socket}|grpc|{encoded}\n")
        sys.stdout.flush()
        ends.ended.wait()
        server.stop(grace=0.2).wait()


if __name__ == "__main__":
    chosen = stand if "--standing" in sys.argv else serve
    chosen(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
