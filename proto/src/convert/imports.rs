//! Chunks of imports.

use ledger_types::limits::OPERATIONS_MAX;
use ledger_types::{Operation, StateKey};

use super::error::{ConvertError, check_count};
use super::operations::operation;
use crate::v1;
use crate::v1::operation::Op;

/// Names of the fields that hold items.
const ENTITIES: &str = "chunk.entities";
const RELATIONSHIPS: &str = "chunk.relationships";

/// Reads the items of a chunk as one transaction's operations: 1 to [`OPERATIONS_MAX`], entities first. Errors: an
/// item beyond its limits; an entity with a condition, which would stop the import where it fails.
pub fn chunk_operations(chunk: v1::ImportChunk) -> Result<Vec<Operation>, ConvertError> {
    let v1::ImportChunk { entities, relationships, .. } = chunk;
    check_count(ENTITIES, entities.len() + relationships.len(), OPERATIONS_MAX)?;
    let mut operations = Vec::with_capacity(entities.len() + relationships.len());
    for (index, entity) in entities.into_iter().enumerate() {
        let read = match entity.condition {
            Some(_) => Err(ConvertError::NotForClients { field: "condition" }),
            None => operation(v1::Operation { op: Some(Op::SetEntity(entity)) }),
        };
        operations.push(read.map_err(|error| error.of_item(ENTITIES, index))?);
    }
    for (index, one) in relationships.into_iter().enumerate() {
        let v1::Relationship { resource, relation, subject } = one;
        let checked = StateKey::check_relationship(&resource, &relation, &subject);
        checked.map_err(|error| ConvertError::from(error).of_item(RELATIONSHIPS, index))?;
        operations.push(Operation::CreateRelationship { resource, relation, subject });
    }
    Ok(operations)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tie(subject: &str) -> v1::Relationship {
        let (resource, relation) = ("doc:1".to_owned(), "viewer".to_owned());
        v1::Relationship { resource, relation, subject: subject.to_owned() }
    }

    fn entity(key: &str) -> v1::SetEntity {
        v1::SetEntity { key: key.to_owned(), ..v1::SetEntity::default() }
    }

    #[test]
    fn entities_come_before_relationships() {
        let chunk = v1::ImportChunk {
            number: 3,
            entities: vec![entity("k")],
            relationships: vec![tie("user:a"), tie("user:b")],
        };
        let operations = chunk_operations(chunk).unwrap();
        assert_eq!(operations.len(), 3);
        assert!(matches!(&operations[0], Operation::SetEntity { key, .. } if key == "k"));
        assert!(
            matches!(&operations[2], Operation::CreateRelationship { subject, .. } if subject == "user:b")
        );
    }

    #[test]
    fn a_bad_item_is_named() {
        let chunk =
            |entities, relationships| v1::ImportChunk { number: 1, entities, relationships };
        let field = |chunk| chunk_operations(chunk).unwrap_err().field();
        assert_eq!(field(chunk(vec![entity("k"), entity("")], vec![])), "chunk.entities[1].key");
        let bad = vec![tie("a"), tie("")];
        assert_eq!(field(chunk(vec![], bad)), "chunk.relationships[1].subject");
        let condition =
            v1::SetCondition { condition: Some(v1::set_condition::Condition::NotExists(true)) };
        let conditional = v1::SetEntity { condition: Some(condition), ..entity("k") };
        assert_eq!(field(chunk(vec![conditional], vec![])), "chunk.entities[0].condition");
        assert_eq!(field(chunk(vec![], vec![])), "chunk.entities");
        let many = vec![tie("a"); OPERATIONS_MAX + 1];
        assert_eq!(field(chunk(vec![], many)), "chunk.entities");
    }
}
