//! Holds the compiled descriptors against `facts/ledger-v1.json`, the names, numbers and types that
//! published clients were compiled with, and against the additions that we have promised ourselves.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    FileDescriptorSet, ServiceDescriptorProto,
};
use serde_json::Value;

/// The first number of what we add to a published message or enum.
const OURS_FROM: i32 = 100;

/// Fields of ours in published messages: message, name, number, type.
const OUR_FIELDS: [(&str, &str, i32, &str); 17] = [
    ("BatchWriteRequest", "sequence", 100, "optional uint64"),
    ("BatchWriteSuccess", "operation_outcomes", 100, "repeated OperationOutcome"),
    ("BlockHeader", "canonical", 100, "bytes"),
    ("CheckIntegrityResponse", "block_height", 101, "uint64"),
    ("CheckIntegrityResponse", "node_id", 100, "NodeId"),
    ("CreateSnapshotResponse", "node_id", 100, "NodeId"),
    ("CreateVaultRequest", "vault_id", 100, "optional VaultId"),
    ("ListNamespacesRequest", "include_deleted", 100, "bool"),
    ("ListVaultsRequest", "include_deleted", 103, "bool"),
    ("ListVaultsRequest", "namespace_id", 102, "optional NamespaceId"),
    ("ListVaultsRequest", "page_size", 100, "optional uint32"),
    ("ListVaultsRequest", "page_token", 101, "optional bytes"),
    ("ListVaultsResponse", "next_page_token", 100, "optional bytes"),
    ("Transaction", "canonical", 100, "bytes"),
    ("WriteError", "expected_sequence", 100, "optional uint64"),
    ("WriteRequest", "sequence", 100, "optional uint64"),
    ("WriteSuccess", "operation_outcomes", 100, "repeated OperationOutcome"),
];

/// Values of ours in published enums.
const OUR_VALUES: [(&str, &str, i32); 1] =
    [("WriteErrorCode", "WRITE_ERROR_CODE_SEQUENCE_GAP", 100)];

/// The numbers of an enum of ours that blocks commit to.
const OUTCOMES: [(&str, i32); 8] = [
    ("OPERATION_OUTCOME_UNSPECIFIED", 0),
    ("OPERATION_OUTCOME_CREATED", 1),
    ("OPERATION_OUTCOME_UPDATED", 2),
    ("OPERATION_OUTCOME_DELETED", 3),
    ("OPERATION_OUTCOME_NOT_FOUND", 4),
    ("OPERATION_OUTCOME_ALREADY_EXISTS", 5),
    ("OPERATION_OUTCOME_EXPIRED", 6),
    ("OPERATION_OUTCOME_RECOVERED", 7),
];

/// What the facts hold: a section, its items, and the methods, fields and values in them.
const FACTS: [(&str, usize, usize); 3] =
    [("services", 5, 35), ("messages", 108, 349), ("enums", 12, 48)];

/// The public package, by name.
#[derive(Default)]
struct Package {
    messages: BTreeMap<String, DescriptorProto>,
    enums: BTreeMap<String, EnumDescriptorProto>,
    services: BTreeMap<String, ServiceDescriptorProto>,
}

fn descriptor_files() -> Vec<FileDescriptorProto> {
    FileDescriptorSet::decode(ledger_proto::FILE_DESCRIPTOR_SET).expect("compiled descriptors").file
}

fn package() -> Package {
    let mut package = Package::default();
    for file in descriptor_files() {
        if file.package() != "ledger.v1" {
            continue;
        }
        assert_eq!(file.syntax(), "proto3", "{}", file.name());
        for message in file.message_type {
            package.messages.insert(message.name().to_owned(), message);
        }
        for item in file.enum_type {
            package.enums.insert(item.name().to_owned(), item);
        }
        for service in file.service {
            package.services.insert(service.name().to_owned(), service);
        }
    }
    package
}

fn facts() -> Value {
    serde_json::from_str(include_str!("../facts/ledger-v1.json")).expect("facts are JSON")
}

fn section<'a>(facts: &'a Value, name: &str) -> &'a serde_json::Map<String, Value> {
    let section = facts[name].as_object().expect("an object");
    assert!(!section.is_empty(), "no {name} in the facts");
    section
}

/// A type's name as the facts write it: without the package it lies in, if that is ours.
fn short_name(full: &str) -> String {
    let name = full.strip_prefix('.').expect("resolved names begin with a dot");
    name.strip_prefix("ledger.v1.").unwrap_or(name).to_owned()
}

fn scalar_name(field: &FieldDescriptorProto) -> String {
    let scalar = match field.r#type() {
        Type::Bool => "bool",
        Type::Bytes => "bytes",
        Type::Int64 => "int64",
        Type::String => "string",
        Type::Uint32 => "uint32",
        Type::Uint64 => "uint64",
        Type::Message | Type::Enum => return short_name(field.type_name()),
        other => panic!("{} has the type {other:?}, which no fact uses", field.name()),
    };
    scalar.to_owned()
}

fn is_map(message: &DescriptorProto, field: &FieldDescriptorProto) -> bool {
    message.nested_type.iter().any(|nested| {
        nested.options.as_ref().is_some_and(|options| options.map_entry())
            && field.type_name().ends_with(&format!(".{}.{}", message.name(), nested.name()))
    })
}

/// A field's type with its label, as the facts write it.
fn type_of(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let name = scalar_name(field);
    if is_map(message, field) {
        let entry = &message.nested_type[0];
        let parts: Vec<String> = entry.field.iter().map(scalar_name).collect();
        return format!("map<{}>", parts.join(", "));
    }
    if field.label() == Label::Repeated {
        return format!("repeated {name}");
    }
    if field.proto3_optional() {
        return format!("optional {name}");
    }
    match field.oneof_index {
        Some(index) => {
            let oneof = message.oneof_decl[usize::try_from(index).expect("an index")].name();
            format!("oneof({oneof}) {name}")
        }
        None => name,
    }
}

fn fields_of(message: &DescriptorProto) -> BTreeMap<String, (i32, String)> {
    message
        .field
        .iter()
        .map(|field| (field.name().to_owned(), (field.number(), type_of(message, field))))
        .collect()
}

#[test]
fn no_fact_was_taken_away() {
    let facts = facts();
    assert_eq!(facts["package"], "ledger.v1");
    for (name, items, parts) in FACTS {
        let section = section(&facts, name);
        let found: usize =
            section.values().map(|item| item.as_object().expect("parts").len()).sum();
        assert_eq!((section.len(), found), (items, parts), "{name}");
    }
}

#[test]
fn published_fields_keep_their_names_in_json_and_their_packing() {
    let (facts, package) = (facts(), package());
    for message in section(&facts, "messages").keys() {
        for field in &package.messages[message].field {
            let name = format!("{message}.{}", field.name());
            let mut camel = String::new();
            for (number, part) in field.name().split('_').enumerate() {
                let (first, rest) = part.split_at(usize::from(number > 0).min(part.len()));
                camel.push_str(&first.to_uppercase());
                camel.push_str(rest);
            }
            assert_eq!(field.json_name(), camel, "{name}");
            let packed = field.options.as_ref().and_then(|options| options.packed);
            assert_eq!(packed, None, "{name}: proto3 decides");
        }
    }
}

#[test]
fn every_published_method_is_there() {
    let (facts, package) = (facts(), package());
    for (service, methods) in section(&facts, "services") {
        let ours = &package.services[service];
        for (method, fact) in methods.as_object().unwrap() {
            let ours = ours.method.iter().find(|ours| ours.name() == method);
            let ours = ours.unwrap_or_else(|| panic!("{service} has no {method}"));
            let output = short_name(ours.output_type());
            let output = if ours.server_streaming() { format!("stream {output}") } else { output };
            assert_eq!(short_name(ours.input_type()), fact[0], "{service}.{method}");
            assert_eq!(output, fact[1], "{service}.{method}");
            assert!(!ours.client_streaming(), "{service}.{method}");
        }
    }
}

#[test]
fn every_published_field_keeps_its_number_and_type() {
    let (facts, package) = (facts(), package());
    for (message, fields) in section(&facts, "messages") {
        let ours = package.messages.get(message).unwrap_or_else(|| panic!("no message {message}"));
        let ours = fields_of(ours);
        for (field, fact) in fields.as_object().unwrap() {
            let (number, kind) =
                ours.get(field).unwrap_or_else(|| panic!("{message} has no {field}"));
            assert_eq!(Value::from(*number), fact[0], "number of {message}.{field}");
            assert_eq!(*kind, fact[1], "type of {message}.{field}");
        }
    }
}

#[test]
fn fields_of_ours_in_published_messages_are_those_promised() {
    let (facts, package) = (facts(), package());
    let mut found = BTreeSet::new();
    for (message, fields) in section(&facts, "messages") {
        for (field, (number, kind)) in fields_of(&package.messages[message]) {
            if fields.get(&field).is_none() {
                assert!(number >= OURS_FROM, "{message}.{field} is ours and has number {number}");
                found.insert((message.clone(), field, number, kind));
            }
        }
    }
    let promised = OUR_FIELDS.map(|(message, field, number, kind)| {
        (message.to_owned(), field.to_owned(), number, kind.to_owned())
    });
    assert_eq!(found, BTreeSet::from(promised));
}

#[test]
fn every_published_enum_value_keeps_its_number() {
    let (facts, package) = (facts(), package());
    let mut found = BTreeSet::new();
    for (name, values) in section(&facts, "enums") {
        let ours: BTreeMap<&str, i32> =
            package.enums[name].value.iter().map(|value| (value.name(), value.number())).collect();
        for (value, number) in values.as_object().unwrap() {
            assert_eq!(ours.get(value.as_str()).map(|&n| Value::from(n)).as_ref(), Some(number));
        }
        for (value, number) in ours {
            if values.get(value).is_none() {
                assert!(number >= OURS_FROM, "{value} is ours and has number {number}");
                found.insert((name.clone(), value.to_owned(), number));
            }
        }
    }
    let promised =
        OUR_VALUES.map(|(name, value, number)| (name.to_owned(), value.to_owned(), number));
    assert_eq!(found, BTreeSet::from(promised));
}

#[test]
fn outcome_numbers_are_those_that_blocks_commit_to() {
    let package = package();
    let outcomes = &package.enums["OperationOutcome"];
    let found: Vec<(&str, i32)> =
        outcomes.value.iter().map(|value| (value.name(), value.number())).collect();
    assert_eq!(found, OUTCOMES);
}

#[test]
fn our_service_has_its_methods() {
    let package = package();
    let ours = &package.services["Ledger"];
    let methods: BTreeSet<&str> = ours.method.iter().map(|method| method.name()).collect();
    for method in ["GetStatus", "GetServerInfo", "GetCheckpoint", "VerifiedGet", "GetTrustBundle"] {
        assert!(methods.contains(method), "Ledger has no {method}");
    }
}

#[test]
fn reflection_shows_the_public_package_only() {
    let packages: BTreeSet<String> =
        descriptor_files().iter().map(|file| file.package().to_owned()).collect();
    let public = ["google.protobuf", "ledger.v1"].map(str::to_owned);
    assert_eq!(packages, BTreeSet::from(public));
}

/// Every method, field and value of the package, a line each.
fn lines() -> BTreeSet<String> {
    let Package { messages, enums, services } = package();
    let mut lines = BTreeSet::new();
    for (name, service) in services {
        for method in service.method {
            let side = |is_stream, name| {
                format!("{}{}", if is_stream { "stream " } else { "" }, short_name(name))
            };
            let input = side(method.client_streaming(), method.input_type());
            let output = side(method.server_streaming(), method.output_type());
            lines.insert(format!("rpc {name}.{} {input} -> {output}", method.name()));
        }
    }
    for (name, message) in messages {
        lines.insert(format!("message {name}"));
        for (field, (number, kind)) in fields_of(&message) {
            lines.insert(format!("field {name}.{field} {number} {kind}"));
        }
    }
    for (name, values) in enums {
        for value in values.value {
            lines.insert(format!("value {name}.{} {}", value.name(), value.number()));
        }
    }
    lines
}

/// What a client of any earlier build was compiled with still means the same: nothing in `facts/promised.txt` may
/// change or go. What is new is added to the file with `UPDATE_PROMISED=1`, which takes nothing out.
#[test]
fn nothing_that_was_ever_promised_is_gone_or_means_something_else() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/facts/promised.txt");
    let text = std::fs::read_to_string(path).expect("the promises can be read");
    let promised: BTreeSet<String> = text.lines().map(str::to_owned).collect();
    let current = lines();
    let broken: Vec<_> = promised.difference(&current).collect();
    assert!(broken.is_empty(), "promised before and broken now: {broken:#?}");
    if std::env::var_os("UPDATE_PROMISED").is_some() {
        let all: Vec<_> = current.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(path, all.concat()).expect("the promises can be written");
        return;
    }
    let new: Vec<_> = current.difference(&promised).collect();
    assert!(new.is_empty(), "UPDATE_PROMISED=1 makes these promises: {new:#?}");
    assert!(promised.len() >= 837, "{} promises: some were taken out", promised.len());
}
