//! Whom a client trusts and when a note counts: the trust bundle, voter sets, the threshold.
//!
//! The time is always the caller's. Must never count a key twice, nor a signature without a time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::RangeInclusive;

use ledger_types::limits::NAME_BYTES_MAX;
use ledger_types::{NodeId, check_name};
use thiserror::Error;

use crate::encoding::{DecodeError, Reader, Writer};
use crate::note::{CheckedNotes, Cosignature, KnownSigner, NoteError, SignedNote, cosigner_name};

/// First bytes of an encoded bundle, which is also the form of a bundle file.
const MAGIC: [u8; 16] = *b"trust-bundle/v1\0";
/// Most voters that a bundle lists.
pub const BUNDLE_VOTERS_MAX: usize = 64;
/// Bytes of one listed voter beside its name.
const VOTER_BYTES_MIN: usize = 42;
const THRESHOLD_MAJORITY: u8 = 1;
const THRESHOLD_FIXED: u8 = 2;

/// How many of a set's voters must have cosigned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Threshold {
    /// More than half.
    Majority,
    /// This many, whatever the size of the set.
    Fixed(u16),
}

/// One voter of `_system`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BundleVoter {
    /// Its node.
    pub node: NodeId,
    /// The node's name.
    pub name: String,
    /// The node's Ed25519 public key.
    pub public_key: [u8; 32],
}

/// Everything a client has to trust beforehand.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TrustBundle {
    /// The cluster's domain.
    pub domain: String,
    /// Number of the bundle; each is vouched for by the one before.
    pub sequence: u64,
    /// When it was made, Unix seconds.
    pub issued_at: u64,
    /// When it stops to count, Unix seconds.
    pub expires_at: u64,
    /// The number in the origin of `_system`'s log.
    pub system_log_epoch: u64,
    /// How many voters must have cosigned.
    pub threshold: Threshold,
    /// Never fewer than this, also in small sets; at least 1.
    pub floor: u16,
    /// Oldest cosignature that counts, in seconds.
    pub max_age_seconds: u64,
    /// How far cosignatures may be ahead of the client's clock, in seconds.
    pub skew_seconds: u64,
    /// The voters of `_system`, by ascending node.
    pub voters: Vec<BundleVoter>,
}

/// A voter whose cosignature counts for a shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Voter {
    /// The node's name.
    pub name: String,
    /// The node's Ed25519 public key.
    pub public_key: [u8; 32],
}

/// The voters of one configuration of a shard.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VoterSet {
    /// The voters, in any order.
    pub voters: Vec<Voter>,
}

/// Which times of cosignatures count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimeRule {
    /// Those in the bundle's window around this time, Unix seconds; the bundle itself must not be
    /// expired.
    Now(u64),
    /// All: for links between bundles, whose last one alone must be current.
    Any,
}

/// A note that counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counted {
    /// Distinct voter keys that cosigned.
    pub keys: usize,
    /// The oldest of their times, Unix seconds. What is learned from the note may be kept until
    /// `max_age` after it.
    pub oldest_time: u64,
}

/// How many lines of a note do not count for a set of voters, by reason; each line once. Log signatures are no
/// lines of voters and are not among them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LeftOut {
    /// Lines that concern no key of the set.
    pub of_strangers: usize,
    /// Valid lines of a key of the set that counts already.
    pub repeated: usize,
    /// Valid lines of keys of the set that are older than the bundle lets count.
    pub too_old: usize,
    /// Valid lines of keys of the set that are further ahead of the clock than the bundle lets count.
    pub too_far_ahead: usize,
}

impl fmt::Display for LeftOut {
    /// `; left out: 2 too old, 1 of no voter`; nothing if none is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reasons = [
            (self.too_old, "too old"),
            (self.too_far_ahead, "too far ahead of the clock"),
            (self.repeated, "of a key that counts already"),
            (self.of_strangers, "of no voter"),
        ];
        let mut before = "; left out: ";
        for (lines, why) in reasons.into_iter().filter(|(lines, _)| *lines > 0) {
            write!(f, "{before}{lines} {why}")?;
            before = ", ";
        }
        Ok(())
    }
}

/// Why a note does not count.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum CountError {
    /// The trust bundle is no longer valid.
    #[error("the trust bundle expired at {expires_at}, it is {now}")]
    BundleExpired {
        /// When it expired, Unix seconds.
        expires_at: u64,
        /// The caller's time, Unix seconds.
        now: u64,
    },
    /// The note is refused as a whole.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// Too few of the voters cosigned in time.
    #[error("{counted} voters cosigned in time, {required} must have{left_out}")]
    TooFew {
        /// Distinct keys that count, in the set that came closest.
        counted: usize,
        /// The keys that set requires.
        required: usize,
        /// Why the note's other lines do not count for that set.
        left_out: LeftOut,
    },
    /// No voters are given.
    #[error("there are no voters to count")]
    NoVoters,
}

impl TrustBundle {
    /// How many of `voters` voters must have cosigned.
    pub fn required(&self, voters: usize) -> usize {
        let by_rule = match self.threshold {
            Threshold::Majority => voters / 2 + 1,
            Threshold::Fixed(count) => usize::from(count),
        };
        by_rule.max(usize::from(self.floor)).max(1)
    }

    /// The voters of `_system` as a set to count.
    pub fn system_voters(&self) -> VoterSet {
        let voter =
            |voter: &BundleVoter| Voter { name: voter.name.clone(), public_key: voter.public_key };
        VoterSet { voters: self.voters.iter().map(voter).collect() }
    }

    /// Whether a bundle asks for less than this one, which a client must consent to.
    pub fn is_lowered_by(&self, next: &TrustBundle) -> bool {
        let counts = 1..=BUNDLE_VOTERS_MAX;
        next.floor < self.floor
            || counts.into_iter().any(|voters| next.required(voters) < self.required(voters))
    }

    /// Whether the note counts: at least the threshold of distinct keys of one of the sets cosigned
    /// it in time. During a change of members both the old and the new set are given, and reaching
    /// it in either is enough.
    pub fn count(
        &self,
        note: &SignedNote,
        sets: &[VoterSet],
        times: TimeRule,
    ) -> Result<Counted, CountError> {
        self.count_remembered(note, sets, times, None)
    }

    /// The same by somebody who may have checked the signatures of this note before.
    pub(crate) fn count_remembered(
        &self,
        note: &SignedNote,
        sets: &[VoterSet],
        times: TimeRule,
        memory: Option<&dyn CheckedNotes>,
    ) -> Result<Counted, CountError> {
        let window = match times {
            TimeRule::Any => 0..=u64::MAX,
            TimeRule::Now(now) if now > self.expires_at => {
                return Err(CountError::BundleExpired { expires_at: self.expires_at, now });
            }
            TimeRule::Now(now) => {
                let oldest = now.saturating_sub(self.max_age_seconds);
                oldest..=now.saturating_add(self.skew_seconds)
            }
        };
        let known = self.known_signers(sets);
        let valid = note.cosignatures_remembered(&known, memory)?;
        let mut newest: BTreeMap<[u8; 32], u64> = BTreeMap::new();
        for cosignature in valid.iter().filter(|one| window.contains(&one.time)) {
            let time = newest.entry(cosignature.public_key).or_default();
            *time = cosignature.time.max(*time);
        }
        let mut closest: Option<(usize, usize, &VoterSet)> = None;
        for set in sets.iter().filter(|set| !set.voters.is_empty()) {
            let times: BTreeMap<[u8; 32], u64> = set
                .voters
                .iter()
                .filter_map(|voter| newest.get_key_value(&voter.public_key))
                .map(|(key, time)| (*key, *time))
                .collect();
            let (counted, required) = (times.len(), self.required(set.voters.len()));
            if counted >= required {
                let oldest_time = times.into_values().min().unwrap_or_default();
                return Ok(Counted { keys: counted, oldest_time });
            }
            if closest.is_none_or(|(best, needed, _)| required - counted < needed - best) {
                closest = Some((counted, required, set));
            }
        }
        let (counted, required, set) = closest.ok_or(CountError::NoVoters)?;
        let left_out = left_out(note, &valid, set, &window);
        Err(CountError::TooFew { counted, required, left_out })
    }

    fn known_signers(&self, sets: &[VoterSet]) -> Vec<KnownSigner> {
        let mut known: Vec<KnownSigner> = Vec::new();
        for voter in sets.iter().flat_map(|set| &set.voters) {
            let name = cosigner_name(&self.domain, &voter.name);
            let signer = KnownSigner { name, public_key: voter.public_key };
            if !known.contains(&signer) {
                known.push(signer);
            }
        }
        known
    }

    /// The canonical bytes: the value of `_system`'s `bundle/<n>` and the content of a bundle file.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        writer.raw(&MAGIC);
        writer.bytes_u16(self.domain.as_bytes());
        writer.u64(self.sequence);
        writer.u64(self.issued_at);
        writer.u64(self.expires_at);
        writer.u64(self.system_log_epoch);
        match self.threshold {
            Threshold::Majority => writer.u8(THRESHOLD_MAJORITY),
            Threshold::Fixed(count) => {
                writer.u8(THRESHOLD_FIXED);
                writer.u16(count);
            }
        }
        writer.u16(self.floor);
        writer.u64(self.max_age_seconds);
        writer.u64(self.skew_seconds);
        assert!(self.voters.len() <= BUNDLE_VOTERS_MAX, "`_system` has few voters");
        writer.u16(self.voters.len() as u16);
        for voter in &self.voters {
            writer.u64(voter.node.0);
            writer.bytes_u16(voter.name.as_bytes());
            writer.raw(&voter.public_key);
        }
        bytes
    }

    /// Reads what [`TrustBundle::encode`] writes. Voters must ascend and have keys of their own.
    pub fn decode(bytes: &[u8]) -> Result<TrustBundle, DecodeError> {
        let mut reader = Reader::new(bytes);
        if reader.array::<16>("bundle magic")? != MAGIC {
            return Err(invalid("bundle magic", "is not trust-bundle/v1"));
        }
        let mut bundle = TrustBundle {
            domain: read_name(&mut reader, "bundle domain")?,
            sequence: reader.u64("bundle sequence")?,
            issued_at: reader.u64("issued_at")?,
            expires_at: reader.u64("expires_at")?,
            system_log_epoch: reader.u64("system log epoch")?,
            threshold: read_threshold(&mut reader)?,
            floor: reader.u16("floor")?,
            max_age_seconds: reader.u64("max_age_seconds")?,
            skew_seconds: reader.u64("skew_seconds")?,
            voters: Vec::new(),
        };
        if bundle.floor == 0 {
            return Err(invalid("floor", "must be at least 1"));
        }
        let count = usize::from(reader.u16("bundle voters")?);
        let count = reader.count("bundle voters", count, BUNDLE_VOTERS_MAX, VOTER_BYTES_MIN)?;
        for _ in 0..count {
            let node = NodeId(reader.u64("voter node")?);
            let name = read_name(&mut reader, "voter name")?;
            let public_key = reader.array("voter public key")?;
            if bundle.voters.last().is_some_and(|before| before.node >= node) {
                return Err(invalid("voter node", "must ascend"));
            }
            if bundle
                .voters
                .iter()
                .any(|other| other.public_key == public_key || other.name == name)
            {
                return Err(invalid("voter", "must have a name and a key of its own"));
            }
            bundle.voters.push(BundleVoter { node, name, public_key });
        }
        reader.finish()?;
        Ok(bundle)
    }
}

/// Why lines of a note do not count for a set, given those that are valid.
fn left_out(
    note: &SignedNote,
    valid: &[Cosignature],
    set: &VoterSet,
    window: &RangeInclusive<u64>,
) -> LeftOut {
    let cosigning = note.signatures.iter().filter(|line| !note.is_log_line(line)).count();
    let mut left_out =
        LeftOut { of_strangers: cosigning.saturating_sub(valid.len()), ..LeftOut::default() };
    let mut counted = BTreeSet::new();
    for Cosignature { public_key, time } in valid {
        if !set.voters.iter().any(|voter| voter.public_key == *public_key) {
            left_out.of_strangers += 1;
        } else if time < window.start() {
            left_out.too_old += 1;
        } else if time > window.end() {
            left_out.too_far_ahead += 1;
        } else if !counted.insert(*public_key) {
            left_out.repeated += 1;
        }
    }
    left_out
}

fn read_threshold(reader: &mut Reader<'_>) -> Result<Threshold, DecodeError> {
    match reader.u8("threshold")? {
        THRESHOLD_MAJORITY => Ok(Threshold::Majority),
        THRESHOLD_FIXED => Ok(Threshold::Fixed(reader.u16("threshold")?)),
        value => Err(DecodeError::UnknownValue { field: "threshold", value: value.into() }),
    }
}

fn read_name(reader: &mut Reader<'_>, field: &'static str) -> Result<String, DecodeError> {
    let name = reader.text_u16(field, NAME_BYTES_MAX)?;
    match check_name(field, name) {
        Ok(()) => Ok(name.to_owned()),
        Err(_) => Err(invalid(field, "may only have a-z, 0-9, '.' and '-'")),
    }
}

fn invalid(field: &'static str, rule: &'static str) -> DecodeError {
    DecodeError::Invalid { field, rule }
}

#[cfg(test)]
mod tests {
    use ledger_types::{Digest, VaultRef};

    use super::*;
    use crate::checkpoint::{Checkpoint, Origin};
    use crate::note::{NodeKey, NoteSignature};

    const NOW: u64 = 1_000_000;

    fn key(number: u8) -> NodeKey {
        NodeKey::from_seed(&[number; 32])
    }

    fn set(numbers: &[u8]) -> VoterSet {
        let voter = |number: &u8| Voter {
            name: format!("n{number}"),
            public_key: key(*number).public_key(),
        };
        VoterSet { voters: numbers.iter().map(voter).collect() }
    }

    fn bundle() -> TrustBundle {
        let voter = |number: u8| BundleVoter {
            node: NodeId(number.into()),
            name: format!("n{number}"),
            public_key: key(number).public_key(),
        };
        TrustBundle {
            domain: "a.ledger".into(),
            sequence: 1,
            issued_at: NOW - 10,
            expires_at: NOW + 100,
            system_log_epoch: 0,
            threshold: Threshold::Majority,
            floor: 1,
            max_age_seconds: 60,
            skew_seconds: 5,
            voters: (1..=3).map(voter).collect(),
        }
    }

    fn checkpoint() -> Checkpoint {
        let origin = Origin { domain: "a.ledger".into(), vault: VaultRef::new(1, 2), log_epoch: 0 };
        Checkpoint { origin, size: 7, root: Digest([1; 32]) }
    }

    fn cosign(number: u8, time: u64) -> NoteSignature {
        key(number).cosign(&checkpoint(), &format!("n{number}"), time)
    }

    fn count(lines: Vec<NoteSignature>, sets: &[VoterSet]) -> Result<Counted, CountError> {
        let note = SignedNote::new(&checkpoint(), lines);
        bundle().count(&note, sets, TimeRule::Now(NOW))
    }

    fn one_of_two(left_out: LeftOut) -> Result<Counted, CountError> {
        Err(CountError::TooFew { counted: 1, required: 2, left_out })
    }

    #[test]
    fn a_majority_in_time_counts() {
        let three = [set(&[1, 2, 3])];
        let lines = vec![cosign(1, NOW - 60), cosign(2, NOW + 5)];
        assert_eq!(count(lines, &three), Ok(Counted { keys: 2, oldest_time: NOW - 60 }));
        let too_old = LeftOut { too_old: 1, ..LeftOut::default() };
        assert_eq!(count(vec![cosign(1, NOW - 61), cosign(2, NOW)], &three), one_of_two(too_old));
        let early = LeftOut { too_far_ahead: 1, ..LeftOut::default() };
        assert_eq!(count(vec![cosign(1, NOW + 6), cosign(2, NOW)], &three), one_of_two(early));
        let stranger = LeftOut { of_strangers: 1, ..LeftOut::default() };
        assert_eq!(count(vec![cosign(4, NOW), cosign(2, NOW)], &three), one_of_two(stranger));
        assert_eq!(count(vec![cosign(2, NOW)], &three), one_of_two(LeftOut::default()));
        assert_eq!(count(vec![cosign(1, NOW)], &[]), Err(CountError::NoVoters));
        assert_eq!(count(vec![cosign(1, NOW)], &[set(&[])]), Err(CountError::NoVoters));
    }

    #[test]
    fn one_key_counts_once_and_a_log_signature_never() {
        let three = [set(&[1, 2, 3])];
        let twice = LeftOut { repeated: 1, ..LeftOut::default() };
        assert_eq!(count(vec![cosign(1, NOW), cosign(1, NOW - 1)], &three), one_of_two(twice));
        let log = key(2).sign_log(&checkpoint());
        assert_eq!(count(vec![cosign(1, NOW), log], &three), one_of_two(LeftOut::default()));
        let mut two_names = set(&[1, 2, 3]);
        two_names.voters[1].public_key = key(1).public_key();
        let lines = vec![cosign(1, NOW), key(1).cosign(&checkpoint(), "n2", NOW)];
        assert_eq!(count(lines, &[two_names]), one_of_two(twice));
    }

    #[test]
    fn every_line_that_does_not_count_is_told_with_its_reason() {
        let log = key(1).sign_log(&checkpoint());
        let lines = vec![
            log,
            cosign(1, NOW),
            cosign(1, NOW - 2),
            cosign(2, NOW - 61),
            cosign(3, NOW - 100),
            cosign(3, NOW + 6),
            cosign(4, NOW),
            cosign(5, NOW),
        ];
        let left_out = LeftOut { of_strangers: 2, repeated: 1, too_old: 2, too_far_ahead: 1 };
        let refused = count(lines.clone(), &[set(&[1, 2, 3])]);
        assert_eq!(refused, one_of_two(left_out));
        let text = refused.expect_err("it does not count").to_string();
        let expected = "1 voters cosigned in time, 2 must have; left out: 2 too old, \
             1 too far ahead of the clock, 1 of a key that counts already, 2 of no voter";
        assert_eq!(text, expected);
        let none = CountError::TooFew { counted: 0, required: 1, left_out: LeftOut::default() };
        assert_eq!(none.to_string(), "0 voters cosigned in time, 1 must have");
        // During a change a voter of the other set is a stranger to the set that came closest.
        let sets = [set(&[4, 6, 7, 8, 9]), set(&[1, 2, 3])];
        assert_eq!(count(lines, &sets), one_of_two(left_out));
    }

    /// Everything that was asked and kept.
    #[derive(Default)]
    struct Memory {
        kept: std::sync::Mutex<BTreeMap<Digest, Vec<Cosignature>>>,
        recalled: std::sync::atomic::AtomicUsize,
    }

    impl CheckedNotes for Memory {
        fn recall(&self, question: &Digest) -> Option<Vec<Cosignature>> {
            let found = self.kept.lock().expect("no holder panics").get(question).cloned();
            let count = usize::from(found.is_some());
            self.recalled.fetch_add(count, std::sync::atomic::Ordering::Relaxed);
            found
        }

        fn keep(&self, question: Digest, valid: &[Cosignature]) {
            let before =
                self.kept.lock().expect("no holder panics").insert(question, valid.to_vec());
            assert_eq!(before, None, "what is remembered is not checked again");
        }
    }

    #[test]
    fn a_remembered_note_is_judged_as_if_it_were_checked_again() {
        let bundle = bundle();
        let memory = Memory::default();
        let judge = |note: &SignedNote, sets: &[VoterSet], now| {
            let times = TimeRule::Now(now);
            let judged = bundle.count_remembered(note, sets, times, Some(&memory));
            assert_eq!(judged, bundle.count(note, sets, times));
            judged
        };
        let recalled = || memory.recalled.load(std::sync::atomic::Ordering::Relaxed);
        let good = SignedNote::new(&checkpoint(), vec![cosign(1, NOW), cosign(2, NOW)]);
        assert!(judge(&good, &[set(&[1, 2, 3])], NOW).is_ok());
        assert_eq!(recalled(), 0);
        assert!(judge(&good, &[set(&[1, 2, 3])], NOW).is_ok());
        assert_eq!(recalled(), 1, "the same note and the same keys");
        let late = NOW + bundle.max_age_seconds + 1;
        let too_old = judge(&good, &[set(&[1, 2, 3])], late);
        assert!(matches!(too_old, Err(CountError::TooFew { counted: 0, .. })), "{too_old:?}");
        assert_eq!(recalled(), 2, "the signatures hold, only they are old");
        assert!(judge(&good, &[set(&[2, 3, 4])], NOW).is_err(), "among other keys one counts");
        let mut bad = good.clone();
        *bad.signatures[1].signature.last_mut().expect("it has bytes") ^= 1;
        for _ in 0..2 {
            let refused = judge(&bad, &[set(&[1, 2, 3])], NOW);
            assert!(matches!(refused, Err(CountError::Note(_))), "{refused:?}");
        }
        assert_eq!(recalled(), 2, "nothing is remembered of a note that is refused");
    }

    #[test]
    fn an_old_note_freshly_cosigned_by_one_bad_voter_does_not_count() {
        let lines = vec![cosign(1, NOW), cosign(2, NOW - 1000), cosign(3, NOW - 1000)];
        let left_out = LeftOut { too_old: 2, ..LeftOut::default() };
        assert_eq!(count(lines, &[set(&[1, 2, 3])]), one_of_two(left_out));
    }

    #[test]
    fn either_set_is_enough_during_a_change_and_votes_do_not_mix() {
        let sets = [set(&[4, 5, 6]), set(&[1, 2, 3])];
        assert!(count(vec![cosign(1, NOW), cosign(2, NOW)], &sets).is_ok());
        assert!(count(vec![cosign(4, NOW), cosign(5, NOW)], &sets).is_ok());
        let mixed = count(vec![cosign(1, NOW), cosign(4, NOW)], &sets);
        assert_eq!(mixed, one_of_two(LeftOut { of_strangers: 1, ..LeftOut::default() }));
    }

    #[test]
    fn rule_floor_and_expiry_hold() {
        let mut bundle = bundle();
        assert_eq!([1, 2, 3, 4, 5].map(|voters| bundle.required(voters)), [1, 2, 2, 3, 3]);
        let stricter = TrustBundle { floor: 2, ..bundle.clone() };
        assert_eq!([1, 3, 5].map(|voters| stricter.required(voters)), [2, 2, 3]);
        let fixed = TrustBundle { threshold: Threshold::Fixed(0), ..bundle.clone() };
        assert_eq!(fixed.required(3), 1);
        assert!(stricter.is_lowered_by(&bundle) && !bundle.is_lowered_by(&stricter));
        assert!(bundle.is_lowered_by(&fixed));
        let note = SignedNote::new(&checkpoint(), vec![cosign(1, NOW), cosign(2, NOW)]);
        bundle.expires_at = NOW - 1;
        let sets = [bundle.system_voters()];
        let expired = bundle.count(&note, &sets, TimeRule::Now(NOW));
        assert!(matches!(expired, Err(CountError::BundleExpired { .. })));
        assert!(bundle.count(&note, &sets, TimeRule::Any).is_ok());
    }

    #[test]
    fn bytes_are_canonical() {
        let bundle = bundle();
        let bytes = bundle.encode();
        assert_eq!(TrustBundle::decode(&bytes).as_ref(), Ok(&bundle));
        assert!(TrustBundle::decode(&bytes[..bytes.len() - 1]).is_err());
        assert!(TrustBundle::decode(&[&bytes[..], &[0]].concat()).is_err());
        for offset in 0..bytes.len() {
            let mut mutated = bytes.clone();
            mutated[offset] ^= 1;
            if let Ok(other) = TrustBundle::decode(&mutated) {
                assert_ne!(other, bundle);
                assert_eq!(other.encode(), mutated);
            }
        }
        let mut twice = bundle.clone();
        twice.voters[1].public_key = twice.voters[0].public_key;
        assert!(TrustBundle::decode(&twice.encode()).is_err());
        let mut unordered = bundle;
        unordered.voters.swap(0, 1);
        assert!(TrustBundle::decode(&unordered.encode()).is_err());
    }
}
