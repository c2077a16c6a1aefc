//! An import into a fresh vault, then lists of single resources.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ledger_client::{
    Client, Consistency, ImportChunk, ListOptions, Relationship, RelationshipFilter,
};
use ledger_types::VaultRef;

use crate::Failure;

/// Relationships in the vault without another number.
pub(crate) const RELATIONSHIPS: u64 = 1_000_000;
/// Relationships of a resource: what one list brings.
const PER_RESOURCE: u64 = 1_000;
/// Relationships in one transaction of the import.
const CHUNK: u64 = 1_000;
/// After how many relationships of the import its rate is shown.
const PROGRESS: u64 = 100_000;
/// Lists of each kind that are measured, after as many that are not.
const LISTS: u64 = 300;
/// Scatters numbers: odd, so that no two below a power of two collide.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

pub(crate) async fn measure(client: &Client, relationships: u64) -> Result<(), Failure> {
    if relationships < PER_RESOURCE || !relationships.is_multiple_of(PER_RESOURCE) {
        return Err(format!("the relationships must be a multiple of {PER_RESOURCE}").into());
    }
    let namespace = client.ensure_namespace("lists").await?;
    let (vault, _) = client.create_vault(namespace).await?;
    import(client, vault, relationships).await?;
    let resources = relationships / PER_RESOURCE;
    for consistency in [Consistency::Linearizable, Consistency::Eventual] {
        let mut times = Histogram::<u64>::new(3)?;
        for number in 0..2 * LISTS {
            let resource = number.wrapping_mul(SPREAD) % resources;
            let took = list(client, vault, resource, consistency).await?;
            if number >= LISTS {
                times.record(u64::try_from(took.as_micros())?)?;
            }
        }
        let ms = |quantile| times.value_at_quantile(quantile) as f64 / 1e3;
        println!(
            "lists of {PER_RESOURCE} relationships of one resource, {consistency:?}, {LISTS} of them: p50 {:.2} ms, p99 {:.2} ms",
            ms(0.5),
            ms(0.99),
        );
    }
    Ok(())
}

/// Each resource gets its relationships in transactions far apart, as grants come in life.
async fn import(client: &Client, vault: VaultRef, relationships: u64) -> Result<(), Failure> {
    let resources = relationships / PER_RESOURCE;
    let mut import = client.import(vault, "lists").await?;
    let began = Instant::now();
    let mut shown = Instant::now();
    for first in (0..relationships).step_by(CHUNK as usize) {
        if first > 0 && first.is_multiple_of(PROGRESS) {
            let rate = PROGRESS as f64 / shown.elapsed().as_secs_f64();
            println!("{first} relationships sent, the last {PROGRESS} at {rate:.0} per second");
            shown = Instant::now();
        }
        let chunk = (first..first + CHUNK).map(|number| Relationship {
            resource: format!("document:{:08}", number % resources),
            relation: "viewer".to_owned(),
            subject: format!("user:{:016x}", number.wrapping_mul(SPREAD)),
        });
        import.send(ImportChunk { relationships: chunk.collect(), ..Default::default() }).await?;
    }
    import.finish().await?;
    let took = began.elapsed().as_secs_f64();
    println!(
        "import of {relationships} relationships into one vault: {took:.1} s, {:.0} per second",
        relationships as f64 / took
    );
    Ok(())
}

async fn list(
    client: &Client,
    vault: VaultRef,
    resource: u64,
    consistency: Consistency,
) -> Result<Duration, Failure> {
    let resource = Some(format!("document:{resource:08}"));
    let filter = RelationshipFilter { resource, ..Default::default() };
    let options = ListOptions { page_items: PER_RESOURCE as u32, consistency, at_height: None };
    let began = Instant::now();
    let page = client.list_relationships(vault, filter, options)?.next_page().await?;
    let took = began.elapsed();
    let found = page.map_or(0, |page| page.items.len());
    if found as u64 != PER_RESOURCE {
        return Err(format!("a list brought {found} relationships").into());
    }
    Ok(took)
}
