"""Writes, reads, lists and watches a vault with generated stubs: walkthrough.py HOST:PORT

Any node's address will do. See README.md for how the stubs are made.
"""

import sys
import uuid

import grpc
from ledger.v1 import admin_service_pb2 as admin
from ledger.v1 import admin_service_pb2_grpc as admin_grpc
from ledger.v1 import read_service_pb2 as read
from ledger.v1 import read_service_pb2_grpc as read_grpc
from ledger.v1 import types_pb2 as types
from ledger.v1 import write_service_pb2 as write
from ledger.v1 import write_service_pb2_grpc as write_grpc

# Every call has a deadline: without one a client waits for as long as a connection seems to live.
DEADLINE_S = 20
CLIENT = types.ClientId(id="python-walkthrough")


def set_entity(key, value, **condition):
    """An operation that sets an entity, if a condition holds."""
    entity = types.SetEntity(key=key, value=value)
    if condition:
        entity.condition.CopyFrom(types.SetCondition(**condition))
    return types.Operation(set_entity=entity)


def grant(resource, relation, subject):
    """An operation that creates a relationship."""
    made = types.CreateRelationship(resource=resource, relation=relation, subject=subject)
    return types.Operation(create_relationship=made)


class Vault:
    """One vault behind one channel."""

    def __init__(self, channel, namespace, vault):
        self.place = {"namespace_id": namespace, "vault_id": vault}
        self.writes = write_grpc.WriteServiceStub(channel)
        self.reads = read_grpc.ReadServiceStub(channel)

    def write(self, *operations, key=None):
        """Writes one transaction. The key tells a repetition from a new write: draw one for each transaction, and repeat
        it when a call failed and nobody knows whether it was carried out."""
        request = write.WriteRequest(
            **self.place,
            client_id=CLIENT,
            idempotency_key=key or uuid.uuid4().bytes,
            operations=operations,
        )
        return self.writes.Write(request, timeout=DEADLINE_S)

    def read(self, key):
        """The newest value, or None."""
        request = read.ReadRequest(
            **self.place, key=key, consistency=types.READ_CONSISTENCY_LINEARIZABLE
        )
        answer = self.reads.Read(request, timeout=DEADLINE_S)
        return answer.value if answer.HasField("value") else None

    def list(self, prefix, page_items=100):
        """Every entity whose key begins so, in order of keys. All pages show the vault as it was at the first one."""
        request = read.ListEntitiesRequest(**self.place, key_prefix=prefix, limit=page_items)
        request.consistency = types.READ_CONSISTENCY_LINEARIZABLE
        while True:
            page = self.reads.ListEntities(request, timeout=DEADLINE_S)
            yield from page.entities
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def watch(self, start_height):
        """Every block from a height on, for as long as the caller goes on asking."""
        request = read.WatchBlocksRequest(**self.place, start_height=start_height)
        return self.reads.WatchBlocks(request, timeout=DEADLINE_S)


def main(address):
    with grpc.insecure_channel(address) as channel:
        admins = admin_grpc.AdminServiceStub(channel)
        name = f"walkthrough-{uuid.uuid4()}"
        namespace = admins.CreateNamespace(
            admin.CreateNamespaceRequest(name=name), timeout=DEADLINE_S
        ).namespace_id
        vault = Vault(
            channel,
            namespace,
            admins.CreateVault(
                admin.CreateVaultRequest(namespace_id=namespace), timeout=DEADLINE_S
            ).vault_id,
        )

        key = uuid.uuid4().bytes
        first = vault.write(set_entity("colour", b"red"), grant("doc:1", "owner", "user:ann"), key=key)
        print(f"written: block {first.success.block_height}, number {first.success.assigned_sequence}")
        again = vault.write(set_entity("colour", b"red"), grant("doc:1", "owner", "user:ann"), key=key)
        assert again.success.tx_id == first.success.tx_id, "a repeated write gets the first answer"
        print(f"read: colour is {vault.read('colour').decode()}")

        # A condition that does not hold is no error of the call. It is an answer, with what is there.
        refused = vault.write(set_entity("colour", b"blue", not_exists=True))
        assert refused.error.code == write.WRITE_ERROR_CODE_KEY_EXISTS, refused
        print(f"refused: {refused.error.key} has version {refused.error.current_version}")
        assert vault.write(
            set_entity("colour", b"blue", version=refused.error.current_version)
        ).HasField("success")

        vault.write(*(set_entity(f"item/{number:03}", b"x") for number in range(250)))
        keys = [entity.key for entity in vault.list("item/")]
        assert keys == [f"item/{number:03}" for number in range(250)], keys
        print(f"listed: {len(keys)} items, {keys[0]} to {keys[-1]}")

        watched = vault.watch(1)
        heights = [next(watched).height for _ in range(3)]
        assert heights == [1, 2, 3], heights
        vault.write(set_entity("colour", b"green"))
        announced = next(watched)
        watched.cancel()
        assert announced.height == 4, announced
        print(f"watched: block {announced.height} has hash {announced.block_hash.value.hex()}")


if __name__ == "__main__":
    main(sys.argv[1])
