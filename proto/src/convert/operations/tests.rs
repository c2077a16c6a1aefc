//! Every bad field of an operation is refused by name.

use ledger_types::limits::KEY_BYTES_MAX;
use ledger_types::{Condition, InvalidInput};
use proptest::prelude::*;

use super::*;

fn set(key: &str, value: Vec<u8>) -> v1::Operation {
    let set = v1::SetEntity { key: key.to_owned(), value, expires_at: None, condition: None };
    v1::Operation { op: Some(Op::SetEntity(set)) }
}

fn create(resource: &str, relation: &str, subject: &str) -> v1::Operation {
    let [resource, relation, subject] = [resource, relation, subject].map(str::to_owned);
    let op = Op::CreateRelationship(v1::CreateRelationship { resource, relation, subject });
    v1::Operation { op: Some(op) }
}

#[test]
fn limits_of_keys_and_values_are_exact() {
    let longest = "k".repeat(KEY_BYTES_MAX);
    assert!(operation(set(&longest, vec![0; VALUE_BYTES_MAX])).is_ok());
    let error = operation(set(&format!("{longest}k"), vec![])).unwrap_err();
    assert_eq!(error.to_string(), "key has 1025 bytes, the limit is 1024");
    let error = operation(set("k", vec![0; VALUE_BYTES_MAX + 1])).unwrap_err();
    assert_eq!(error.to_string(), "value has 1048577 bytes, the limit is 1048576");
}

#[test]
fn malformed_text_is_refused() {
    assert_eq!(operation(set("", vec![])), Err(InvalidInput::Empty { field: "key" }.into()));
    let nul = InvalidInput::Nul { field: "key", offset: 2 };
    assert_eq!(operation(set("ab\0", vec![])), Err(nul.into()));
    assert_eq!(operation(create("", "r", "s")).unwrap_err().field(), "resource");
    assert_eq!(operation(create("r", "", "s")).unwrap_err().field(), "relation");
    assert_eq!(operation(create("r", "r", "\0")).unwrap_err().field(), "subject");
}

#[test]
fn parts_of_a_relationship_are_bounded_together() {
    let (half, longest) = ("x".repeat(1021), "x".repeat(1024));
    assert!(operation(create(&half, "r", &longest[..1023])).is_ok());
    assert_eq!(operation(create(&half, "r", &longest)).unwrap_err().field(), "relationship");
}

#[test]
fn clients_may_not_expire() {
    let expire = v1::ExpireEntity { key: "k".to_owned(), expired_at: 1 };
    let error = operation(v1::Operation { op: Some(Op::ExpireEntity(expire)) });
    assert_eq!(error, Err(ConvertError::NotForClients { field: "expire_entity" }));
    assert_eq!(operation(v1::Operation { op: None }), Err(ConvertError::Missing { field: "op" }));
}

#[test]
fn number_of_operations_is_bounded() {
    assert_eq!(operations(vec![]), Err(ConvertError::NoItems { field: "operations" }));
    let many = |count: usize| vec![set("k", vec![]); count];
    assert_eq!(operations(many(OPERATIONS_MAX)).map(|list| list.len()), Ok(OPERATIONS_MAX));
    let too_many = ConvertError::TooMany {
        field: "operations",
        count: OPERATIONS_MAX + 1,
        max: OPERATIONS_MAX,
    };
    assert_eq!(operations(many(OPERATIONS_MAX + 1)), Err(too_many.clone()));
    let part = |count| v1::BatchWriteOperation { operations: many(count) };
    assert_eq!(batch_operations(vec![part(OPERATIONS_MAX), part(1)]), Err(too_many));
    let empty = ConvertError::NoItems { field: "operations" };
    assert_eq!(batch_operations(vec![part(0), part(0)]), Err(empty));
}

#[test]
fn batch_keeps_order_and_names_the_part() {
    let part = |keys: &[&str]| v1::BatchWriteOperation {
        operations: keys.iter().map(|key| set(key, vec![])).collect(),
    };
    let keys: Vec<String> = batch_operations(vec![part(&["b", "a"]), part(&["c"])])
        .unwrap()
        .into_iter()
        .map(|operation| match operation {
            Operation::SetEntity { key, .. } => key,
            other => panic!("unexpected {other:?}"),
        })
        .collect();
    assert_eq!(keys, ["b", "a", "c"]);
    let error = batch_operations(vec![part(&["b"]), part(&["c", ""])]).unwrap_err();
    assert_eq!(error.field(), "operations[1].operations[1].key");
}

#[test]
fn outcomes_keep_their_hashed_numbers() {
    for code in 1..=7 {
        let outcome = Outcome::from_code(code).unwrap();
        assert_eq!(wire_outcomes(&[outcome]), [i32::from(code)]);
        assert_eq!(outcomes(&[i32::from(code)]), Ok(vec![outcome]));
    }
    for value in [-1, 0, 8, 257] {
        let error = ConvertError::UnknownValue { field: "operation_outcomes", value };
        assert_eq!(outcomes(&[value]), Err(error));
    }
}

fn any_condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        Just(Condition::NotExists),
        Just(Condition::MustExist),
        any::<u64>().prop_map(Condition::Version),
        any::<Vec<u8>>().prop_map(Condition::ValueEquals),
    ]
}

fn any_client_operation() -> impl Strategy<Value = Operation> {
    let text = || "[^\\x00]{1,40}";
    prop_oneof![
        (text(), any::<Vec<u8>>(), any::<u64>(), proptest::option::of(any_condition())).prop_map(
            |(key, value, expires_at, condition)| Operation::SetEntity {
                key,
                value,
                expires_at,
                condition
            }
        ),
        text().prop_map(|key| Operation::DeleteEntity { key }),
        (text(), text(), text()).prop_map(|(resource, relation, subject)| {
            Operation::CreateRelationship { resource, relation, subject }
        }),
        (text(), text(), text()).prop_map(|(resource, relation, subject)| {
            Operation::DeleteRelationship { resource, relation, subject }
        }),
    ]
}

proptest! {
    #[test]
    fn operations_survive_the_wire(wanted in any_client_operation()) {
        use prost::Message as _;
        let bytes = v1::Operation::from(wanted.clone()).encode_to_vec();
        let wire = v1::Operation::decode(bytes.as_slice()).unwrap();
        prop_assert_eq!(operation(wire), Ok(wanted));
    }
}
