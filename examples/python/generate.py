"""Makes Python stubs of the public API: generate.py DIRECTORY

Needs the package grpcio-tools. Put the directory on PYTHONPATH and import ledger.v1.write_service_pb2 and the others.
"""

import sys
from pathlib import Path

from grpc_tools import protoc

PROTO = Path(__file__).resolve().parents[2] / "proto"


def main(directory):
    Path(directory).mkdir(parents=True, exist_ok=True)
    files = sorted(str(path) for path in (PROTO / "ledger" / "v1").glob("*.proto"))
    # What google.protobuf needs comes along with the tools.
    well_known = Path(protoc.__file__).parent / "_proto"
    arguments = [
        "protoc",
        f"--proto_path={PROTO}",
        f"--proto_path={well_known}",
        f"--python_out={directory}",
        f"--grpc_python_out={directory}",
        *files,
    ]
    return protoc.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
