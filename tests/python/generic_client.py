"""A client that has never seen this repository: it knows an address and what the node tells of itself.

Everything it sends is built from the descriptors that reflection answers. It ends with an error when something is not as
a stranger may expect it. Run by tests/cluster/python_clients.rs; by hand: generic_client.py HOST:PORT
"""

import sys
import uuid

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from grpc_status import rpc_status

DEADLINE_S = 20
PACKAGE = "ledger.v1"
SERVICES = ["AdminService", "HealthService", "Ledger", "ReadService", "WriteService"]


class Stranger:
    """Calls methods by name, with requests given as plain dictionaries."""

    def __init__(self, channel):
        self.channel = channel
        self.database = ProtoReflectionDescriptorDatabase(channel)
        self.pool = descriptor_pool.DescriptorPool(self.database)

    def services(self):
        return set(self.database.get_services())

    def method(self, service, name):
        return self.pool.FindServiceByName(f"{PACKAGE}.{service}").FindMethodByName(name)

    def call(self, service, name, /, **fields):
        method = self.method(service, name)
        request = message_factory.GetMessageClass(method.input_type)(**fields)
        answer_type = message_factory.GetMessageClass(method.output_type)
        call = self.channel.unary_unary(
            f"/{PACKAGE}.{service}/{name}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer_type.FromString,
        )
        return call(request, timeout=DEADLINE_S)

    def number_of(self, enum, value):
        return self.pool.FindEnumTypeByName(f"{PACKAGE}.{enum}").values_by_name[value].number


def expect(holds, what):
    """Ends the program, also with -O, if something is not as it must be."""
    if not holds:
        raise SystemExit(f"not as expected: {what}")


def standard_health(channel):
    health = health_pb2_grpc.HealthStub(channel)
    for name in ["", "liveness", f"{PACKAGE}.Ledger"]:
        request = health_pb2.HealthCheckRequest(service=name)
        answer = health.Check(request, timeout=DEADLINE_S)
        expect(answer.status == health_pb2.HealthCheckResponse.SERVING, f"health of {name!r}: {answer}")
    watched = health.Watch(health_pb2.HealthCheckRequest(service=""), timeout=DEADLINE_S)
    expect(next(watched).status == health_pb2.HealthCheckResponse.SERVING, "watched health")
    watched.cancel()


def described(stranger):
    """Every service is described down to the types of its methods."""
    services = stranger.services()
    for name in SERVICES:
        expect(f"{PACKAGE}.{name}" in services, f"{name} is not listed in {sorted(services)}")
    methods = 0
    for name in sorted(name for name in services if name.startswith(f"{PACKAGE}.")):
        for method in stranger.pool.FindServiceByName(name).methods:
            message_factory.GetMessageClass(method.input_type)()
            message_factory.GetMessageClass(method.output_type)()
            methods += 1
    expect(methods > 30, f"only {methods} methods are described")
    internal = [name for name in services if "internal" in name]
    expect(not internal, f"services between nodes are shown: {internal}")


def write_and_read(stranger):
    name = f"stranger-{uuid.uuid4()}"
    namespace = stranger.call("AdminService", "CreateNamespace", name=name).namespace_id
    vault = stranger.call("AdminService", "CreateVault", namespace_id=namespace).vault_id
    place = {"namespace_id": namespace, "vault_id": vault}
    write = {
        **place,
        "client_id": {"id": "stranger"},
        "idempotency_key": uuid.uuid4().bytes,
        "operations": [
            {"set_entity": {"key": "colour", "value": b"red"}},
            {"create_relationship": {"resource": "doc:1", "relation": "owner", "subject": "user:ann"}},
        ],
    }
    first = stranger.call("WriteService", "Write", **write)
    expect(first.WhichOneof("result") == "success", f"the write: {first}")
    again = stranger.call("WriteService", "Write", **write)
    expect(again.success.tx_id == first.success.tx_id, "a repeated write is another one")
    linearizable = stranger.number_of("ReadConsistency", "READ_CONSISTENCY_LINEARIZABLE")
    answer = stranger.call("ReadService", "Read", **place, key="colour", consistency=linearizable)
    expect(answer.value == b"red", f"the read: {answer}")
    expect(answer.block_height == first.success.block_height, f"its height: {answer}")
    absent = stranger.call("ReadService", "Read", **place, key="shape", consistency=linearizable)
    expect(not absent.HasField("value"), f"what nobody wrote: {absent}")
    health = stranger.call("HealthService", "Check", **place)
    healthy = stranger.number_of("HealthStatus", "HEALTH_STATUS_HEALTHY")
    expect(health.status == healthy, f"health of the vault: {health}")


def errors_have_reasons(stranger):
    try:
        stranger.call("ReadService", "Read", namespace_id={"id": 4711}, key="k")
    except grpc.RpcError as error:
        expect(error.code() == grpc.StatusCode.NOT_FOUND, f"the code: {error}")
        info = error_details_pb2.ErrorInfo()
        details = rpc_status.from_call(error).details
        expect(any(detail.Unpack(info) for detail in details), f"no ErrorInfo in {details}")
        told = (info.domain, info.reason)
        expect(told == (PACKAGE, "NAMESPACE_NOT_FOUND"), f"the reason: {told}")
        return
    expect(False, "a namespace that nobody made was read")


def main(address):
    with grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result(timeout=DEADLINE_S)
        standard_health(channel)
        stranger = Stranger(channel)
        described(stranger)
        write_and_read(stranger)
        errors_have_reasons(stranger)
    print("a client without our code wrote and read")


if __name__ == "__main__":
    main(sys.argv[1])
