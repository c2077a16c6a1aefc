//! Hostile requests of any method, made from its descriptor alone.
//!
//! Owns which values are tried in which field. The same seed gives the same requests; a method, message or field that is new
//! is covered without a change here.

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor, Value,
};
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};

use super::super::raw_call::frame;

/// Messages inside of messages that are varied.
const DEPTH_MAX: usize = 6;
/// Elements of a list that is too long for every limit.
const ELEMENTS_MANY: usize = 10_001;
/// The time of a request that names one.
const TIMEOUT_MS: u64 = 10_000;
/// Requests per method whose bytes are changed at random.
const MUTATIONS: usize = 40;
/// How a request is called that nothing is wrong with.
const SOUND: &str = "as it should be";
/// How the names of those begin that come behind one that begins a stream.
pub(crate) const AFTER_BEGIN: &str = "after the beginning, ";
/// Text that stands where bytes are to be put that are no text; as long as they are.
const MARK: &[u8; 7] = b"\x01\x02BAD\x02\x01";
/// No UTF-8.
const NO_TEXT: &[u8; 7] = b"\xff\xfe\xc0\x80\xed\xa0\x80";

/// A request as it goes over the wire.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// Field and value, for people.
    pub(crate) what: String,
    /// Bytes with their framing.
    pub(crate) body: Bytes,
    /// It is no request of this type at all.
    pub(crate) is_malformed: bool,
}

/// Ids that requests name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    /// The namespace.
    pub(crate) namespace: i64,
    /// The vault.
    pub(crate) vault: i64,
    /// False for methods that change more than a vault: then no request may mean anything that exists.
    pub(crate) is_real: bool,
}

/// Makes the requests of one method.
pub(crate) struct Maker {
    names: Names,
    random: StdRng,
    count: u64,
}

impl Maker {
    /// The same seed makes the same requests.
    pub(crate) fn new(names: Names, seed: u64) -> Maker {
        Maker { names, random: StdRng::seed_from_u64(seed), count: 0 }
    }

    /// Every request that is tried.
    pub(crate) fn cases(&mut self, method: &MethodDescriptor) -> Vec<Case> {
        let request = &method.input();
        let mut cases = Vec::new();
        let whole = |what: String, message: &DynamicMessage| {
            let body = frame(&message.encode_to_vec());
            Case { what, body, is_malformed: false }
        };
        // One that nothing is wrong with, so that the others are known to get as far. Of those that change more than a
        // vault, one without a field could mean this very node.
        let sample = self.sample(request, 0);
        if self.names.is_real || request.fields().len() > 0 {
            cases.push(whole(SOUND.to_owned(), &sample));
        }
        if self.names.is_real {
            cases.push(whole("nothing".to_owned(), &DynamicMessage::new(request.clone())));
        }
        for (what, message) in self.variants(request, 0) {
            let is_marked = what.ends_with("no UTF-8");
            let mut case = whole(what, &message);
            if is_marked {
                case = Case { body: unmarked(&case.body), is_malformed: true, ..case };
            }
            cases.push(case);
        }
        cases.extend(self.after_begin(request));
        cases.extend(wrong_wire_types(request, &sample));
        let what = "no message".to_owned();
        cases.push(Case { what, body: Bytes::new(), is_malformed: true });
        cases.extend(self.broken_frames(&sample.encode_to_vec()));
        if self.names.is_real {
            cases.extend(self.mutations(&sample.encode_to_vec()));
        }
        if method.is_client_streaming() {
            // A stream may be empty, and may tell what it thinks of a message without ending.
            cases.iter_mut().for_each(|case| case.is_malformed = false);
        }
        cases
    }

    /// Requests of a stream that are only looked at behind one that begins it: each behind a sound one of that kind. Each
    /// begins something of its own, so that nothing is passed over as known.
    fn after_begin(&mut self, request: &MessageDescriptor) -> Vec<Case> {
        let begin = request.get_field_by_name("begin");
        let Some(oneof) = begin.as_ref().and_then(FieldDescriptor::containing_oneof) else {
            return Vec::new();
        };
        let mut cases = Vec::new();
        for field in oneof.fields().filter(|field| Some(field) != begin.as_ref()) {
            let Kind::Message(inner) = field.kind() else { continue };
            let mut tried = vec![(SOUND.to_owned(), self.sample(&inner, 1))];
            tried.extend(self.variants(&inner, 1));
            for (what, message) in tried {
                let mut body = frame(&self.sample(request, 0).encode_to_vec()).to_vec();
                let mut next = DynamicMessage::new(request.clone());
                next.set_field(&field, Value::Message(message));
                let next = frame(&next.encode_to_vec());
                body.extend(if what.ends_with("no UTF-8") { unmarked(&next) } else { next });
                let what = format!("{AFTER_BEGIN}{}, {what}", field.name());
                cases.push(Case { what, body: body.into(), is_malformed: false });
            }
        }
        cases
    }

    /// A request that could be answered.
    fn sample(&mut self, of: &MessageDescriptor, depth: usize) -> DynamicMessage {
        let mut message = DynamicMessage::new(of.clone());
        self.count += 1;
        match of.full_name() {
            "ledger.v1.NamespaceId" => {
                message.set_field_by_name("id", Value::I64(self.names.namespace));
                return message;
            }
            "ledger.v1.VaultId" => {
                message.set_field_by_name("id", Value::I64(self.names.vault));
                return message;
            }
            _ => {}
        }
        let mut chosen = Vec::new();
        for field in of.fields() {
            if let Some(oneof) = field.containing_oneof() {
                let is_id = matches!(field.kind(), Kind::Message(_)) && depth == 0;
                let is_first = !chosen.contains(&oneof.name().to_owned());
                let is_wanted = if oneof.is_synthetic() { is_id } else { is_first };
                if !is_wanted {
                    continue;
                }
                chosen.push(oneof.name().to_owned());
            }
            if depth < DEPTH_MAX && !field.is_map() {
                let one = self.plausible(&field, depth);
                let value = if field.is_list() { Value::List(vec![one]) } else { one };
                message.set_field(&field, value);
            }
        }
        message
    }

    /// A value of a field that nothing is wrong with.
    fn plausible(&mut self, field: &FieldDescriptor, depth: usize) -> Value {
        match field.kind() {
            Kind::String if field.name().contains("token") => Value::String(String::new()),
            Kind::String => Value::String(format!("hostile-{}", self.count)),
            Kind::Bytes if field.name().contains("token") => Value::Bytes(Bytes::new()),
            Kind::Bytes if field.name() == "value" => Value::Bytes(self.bytes(32)),
            Kind::Bytes => Value::Bytes(self.bytes(16)),
            Kind::Message(inner) => Value::Message(self.sample(&inner, depth + 1)),
            Kind::Bool => Value::Bool(true),
            // Long enough that what is asked for is what decides.
            Kind::Uint64 if field.name() == "timeout_ms" => Value::U64(TIMEOUT_MS),
            // A node, shard or height of this number is nothing that exists.
            _ if !self.names.is_real => number(&field.kind(), i64::MAX),
            kind => number(&kind, 1),
        }
    }

    fn bytes(&mut self, len: usize) -> Bytes {
        let mut bytes = vec![0; len];
        self.random.fill_bytes(&mut bytes);
        bytes.into()
    }

    /// The sample with one field changed, for each field at any depth and each value that is tried there.
    fn variants(&mut self, of: &MessageDescriptor, depth: usize) -> Vec<(String, DynamicMessage)> {
        let mut variants = Vec::new();
        if depth >= DEPTH_MAX {
            return variants;
        }
        for field in of.fields().filter(|field| !field.is_map()) {
            let mut tried = self.hostile_values(&field);
            if let Kind::Message(inner) = field.kind() {
                let nested = self.variants(&inner, depth + 1);
                let nested = nested.into_iter().map(|(what, m)| (what, Value::Message(m)));
                tried.extend(nested.map(|(what, value)| (format!(".{what}"), value)));
            }
            for (what, value) in tried {
                let mut message = self.sample(of, depth);
                let value = if field.is_list() { Value::List(vec![value]) } else { value };
                message.set_field(&field, value);
                variants.push((format!("{}{what}", field.name()), message));
            }
            if field.is_list() {
                let one = self.plausible(&field, depth);
                let mut message = self.sample(of, depth);
                message.set_field(&field, Value::List(vec![one; ELEMENTS_MANY]));
                variants.push((format!("{} {ELEMENTS_MANY} times", field.name()), message));
            }
            if self.names.is_real {
                let mut message = self.sample(of, depth);
                message.clear_field(&field);
                variants.push((format!("{} unset", field.name()), message));
            }
        }
        variants
    }

    /// Values that are tried in a field, with their names.
    fn hostile_values(&mut self, field: &FieldDescriptor) -> Vec<(String, Value)> {
        let kind = field.kind();
        let shown = |value: i64| format!(" = {value}");
        let count = |value: usize| format!(" of {value} bytes");
        match &kind {
            Kind::String => {
                let mark = String::from_utf8(MARK.to_vec()).unwrap();
                let mut values = vec![
                    (" = NUL".to_owned(), "\0".to_owned()),
                    (" with NUL".to_owned(), "a\0b".to_owned()),
                    (" is no token".to_owned(), "nonsense".to_owned()),
                    (" no UTF-8".to_owned(), mark),
                    (" with odd text".to_owned(), "\u{202e}\u{feff}é\u{10ffff}\n%s{}".to_owned()),
                ];
                values.extend([1_025, 4_097, 100_000].map(|len| (count(len), "A".repeat(len))));
                if self.names.is_real {
                    values.push((" = \"\"".to_owned(), String::new()));
                }
                values.into_iter().map(|(what, text)| (what, Value::String(text))).collect()
            }
            Kind::Bytes => {
                let lengths = [0, 1, 15, 16, 17, 31, 32, 33, 4_097, (1 << 20) + 1];
                lengths.map(|len| (count(len), Value::Bytes(self.bytes(len)))).into()
            }
            Kind::Bool => vec![(" = false".to_owned(), Value::Bool(false))],
            Kind::Message(inner) if self.names.is_real => {
                vec![(" empty".to_owned(), Value::Message(DynamicMessage::new(inner.clone())))]
            }
            Kind::Message(_) => Vec::new(),
            kind => {
                let mut values = vec![i64::MIN, -1, i64::MAX, 1 << 40, 1 << 53];
                if self.names.is_real {
                    values.extend([0, 1, 2, 99, 1_001, 10_000, 10_001, 4_711]);
                }
                values.into_iter().map(|value| (shown(value), number(kind, value))).collect()
            }
        }
    }

    /// Messages that are cut off, compressed without saying how, longer than they say, or more than one.
    fn broken_frames(&mut self, message: &[u8]) -> Vec<Case> {
        let whole = frame(message);
        let case = |what: &str, body: Vec<u8>| Case {
            what: what.to_owned(),
            body: body.into(),
            is_malformed: true,
        };
        let mut compressed = whole.to_vec();
        compressed[0] = 1;
        let mut unknown = whole.to_vec();
        unknown[0] = 7;
        let mut huge = whole.to_vec();
        huge[1..5].copy_from_slice(&u32::MAX.to_be_bytes());
        let mut cases = vec![
            case("half a frame", whole[..3].to_vec()),
            case("compressed, and nobody says how", compressed),
            case("of an unknown compression", unknown),
            case("shorter than it says", huge),
            case("only a tag that goes on", frame(&[0xff; 11]).to_vec()),
            case("a group that never ends", frame(&[0x0b; 64]).to_vec()),
        ];
        if message.len() > 1 {
            let cut = self.random.random_range(1..message.len());
            let mut short = whole[..5 + cut].to_vec();
            cases.push(case("cut off on the way", short.clone()));
            short[1..5].copy_from_slice(&u32::try_from(cut).unwrap().to_be_bytes());
            // What is left may be a message of its own.
            cases.push(Case { is_malformed: false, ..case("cut off before it was sent", short) });
        }
        cases
    }

    /// The same with bits flipped, bytes put in and bytes taken out.
    fn mutations(&mut self, message: &[u8]) -> Vec<Case> {
        let mut cases = Vec::new();
        for number in 0..MUTATIONS {
            let mut bytes = message.to_vec();
            for _ in 0..self.random.random_range(1..4) {
                let at = self.random.random_range(0..=bytes.len());
                match self.random.random_range(0..3) {
                    0 if at < bytes.len() => bytes[at] ^= 1 << self.random.random_range(0..8),
                    1 if at < bytes.len() => drop(bytes.remove(at)),
                    _ => bytes.insert(at, self.random.random()),
                }
            }
            let what = format!("changed at random, {number}");
            cases.push(Case { what, body: frame(&bytes), is_malformed: false });
        }
        cases
    }
}

/// Every field of a request with bytes of another wire type than its own.
fn wrong_wire_types(request: &MessageDescriptor, sample: &DynamicMessage) -> Vec<Case> {
    let mut cases = Vec::new();
    for field in request.fields() {
        let mut message = sample.clone();
        message.clear_field(&field);
        let is_length_delimited =
            matches!(field.kind(), Kind::String | Kind::Bytes | Kind::Message(_));
        // Lists of numbers may come packed or not.
        if field.is_list() && !is_length_delimited {
            continue;
        }
        let wire_type = if is_length_delimited { 0 } else { 2 };
        let mut bytes = message.encode_to_vec();
        prost::encoding::encode_varint(u64::from(field.number() << 3 | wire_type), &mut bytes);
        bytes.push(0);
        let what = format!("{} of another wire type", field.name());
        cases.push(Case { what, body: frame(&bytes), is_malformed: true });
    }
    cases
}

/// A number of any numeric kind, cut to fit.
fn number(kind: &Kind, value: i64) -> Value {
    match kind {
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(value as i32),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(value as u32),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(value as u64),
        Kind::Enum(_) => Value::EnumNumber(value as i32),
        Kind::Float => Value::F32(value as f32),
        Kind::Double => Value::F64(value as f64),
        _ => Value::I64(value),
    }
}

/// The bytes with what is no text where the mark stands.
fn unmarked(body: &[u8]) -> Bytes {
    let at = body.windows(MARK.len()).position(|window| window == MARK).expect("a mark");
    let mut bytes = body.to_vec();
    bytes[at..at + MARK.len()].copy_from_slice(NO_TEXT);
    bytes.into()
}
