//! From text to batches: tokenized examples, packed into sequences of one length, in an order drawn per epoch.

use crate::data::{Conversation, DataFile, Document};
use crate::error::{Error, Result};
use crate::ranks::share;
use kernels::PAD_SEGMENT;
use lm::chat::Message;
use lm::random::stream;
use lm::tokenizer::Tokenizer;
use rand::seq::SliceRandom;
use std::collections::BTreeMap;
use std::ops::Range;

pub use kernels::IGNORE;

/// Tokens, padding included, that a piece of a batch has at least; smaller products would be slower.
const PIECE_TOKENS: usize = 512;
/// Pieces that a batch has at most.
const MOST_PIECES: usize = 8;

/// Token ids and which of them are learnt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Token ids.
    pub ids: Vec<u32>,
    /// `is_target[t]`: whether `ids[t]` is to be predicted from what precedes it. The first token never is.
    pub is_target: Vec<bool>,
}

impl Example {
    /// An example of which everything but the first token is learnt.
    pub fn plain(ids: Vec<u32>) -> Self {
        let is_target = (0..ids.len()).map(|t| t > 0).collect();
        Self { ids, is_target }
    }

    /// Number of tokens that are learnt.
    pub fn n_targets(&self) -> usize {
        self.is_target.iter().filter(|&&is_target| is_target).count()
    }
}

/// Tokenizes documents, each begun by the beginning-of-sequence token; one longer than `sequence_tokens` becomes several
/// examples that overlap in one token, so that every token but the first is learnt once.
///
/// # Errors
/// Where the tokenizer fails.
pub fn encode_documents(
    tokenizer: &Tokenizer,
    documents: &DataFile<Document>,
    sequence_tokens: usize,
) -> Result<Vec<Example>> {
    let mut examples = Vec::new();
    for document in &documents.items {
        let ids = tokenizer.encode_start(&document.text)?;
        let mut start = 0;
        while start + 1 < ids.len() {
            let end = (start + sequence_tokens).min(ids.len());
            examples.push(Example::plain(ids[start..end].to_vec()));
            start = end - 1;
        }
    }
    if examples.is_empty() {
        return Err(Error::NoData { path: documents.path.clone(), what: "documents of more than one token" });
    }
    Ok(examples)
}

/// Tokenizes conversations; what the assistant says after the turns that are given is learnt, up to and including the token
/// that ends its turn.
///
/// # Errors
/// [`Error::TooLong`] for a conversation of more than `sequence_tokens`; otherwise where the tokenizer or the template fails.
pub fn encode_conversations(
    tokenizer: &Tokenizer,
    conversations: &DataFile<Conversation>,
    sequence_tokens: usize,
) -> Result<Vec<Example>> {
    let mut examples = Vec::with_capacity(conversations.items.len());
    for (conversation, &line) in conversations.items.iter().zip(&conversations.lines) {
        let example = encode_continuation(tokenizer, &conversation.messages, conversation.given)?;
        if example.ids.len() > sequence_tokens {
            let (path, tokens) = (conversations.path.clone(), example.ids.len());
            return Err(Error::TooLong { path, line, tokens, limit: sequence_tokens });
        }
        examples.push(example);
    }
    Ok(examples)
}

/// Tokenizes one conversation, of which the first `given` turns are not learnt, whoever speaks.
///
/// # Errors
/// Where the tokenizer or the template fails.
pub(crate) fn encode_continuation(tokenizer: &Tokenizer, messages: &[Message], given: usize) -> Result<Example> {
    let mut example = encode_conversation(tokenizer, messages)?;
    if given > 0 {
        let n_given = encode_conversation(tokenizer, &messages[..given])?.ids.len();
        example.is_target[..n_given].fill(false);
    }
    Ok(example)
}

/// Tokenizes one conversation; what the assistant says is learnt, up to and including the token that ends its turn.
///
/// # Errors
/// Where the tokenizer or the template fails.
pub fn encode_conversation(tokenizer: &Tokenizer, messages: &[Message]) -> Result<Example> {
    let (ids, is_target) = lm::chat::encode_conversation(tokenizer, messages)?;
    Ok(Example { ids, is_target })
}

/// Examples side by side in sequences of one length, each seeing only itself.
#[derive(Debug, Clone)]
pub struct Batch {
    /// What the decoder reads, (B, T).
    pub input: lm::batch::Batch,
    /// Its token ids, padded with 0.
    pub ids: Vec<u32>,
    /// For each position the token to predict, or [`IGNORE`].
    pub targets: Vec<u32>,
    /// Number of positions with a target.
    pub n_targets: usize,
    /// Where each example lies, in the order given.
    pub spans: Vec<Span>,
}

/// Where an example lies in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Flat position (row times T plus column) of its first token.
    pub start: usize,
    /// Number of tokens.
    pub len: usize,
}

impl Batch {
    /// Lays out rows of examples, each row padded to `sequence_tokens`.
    ///
    /// # Errors
    /// Where there is nothing to lay out.
    ///
    /// # Panics
    /// Where a row holds more tokens than that.
    pub fn assemble(rows: &[Vec<&Example>], sequence_tokens: usize) -> Result<Self> {
        let n = rows.len() * sequence_tokens;
        let mut ids = vec![0; n];
        let mut targets = vec![IGNORE; n];
        let mut segments = vec![PAD_SEGMENT; n];
        let mut spans = Vec::new();
        for (row_idx, row) in rows.iter().enumerate() {
            let mut at = row_idx * sequence_tokens;
            for (segment_idx, example) in row.iter().enumerate() {
                let len = example.ids.len();
                assert!(at + len <= (row_idx + 1) * sequence_tokens, "a row holds more than {sequence_tokens} tokens");
                ids[at..at + len].copy_from_slice(&example.ids);
                for t in 0..len {
                    segments[at + t] = segment_idx as u32;
                    if t + 1 < len && example.is_target[t + 1] {
                        targets[at + t] = example.ids[t + 1];
                    }
                }
                spans.push(Span { start: at, len });
                at += len;
            }
        }
        let n_targets = targets.iter().filter(|&&target| target != IGNORE).count();
        let input = lm::batch::Batch::packed(ids.clone(), segments, rows.len())?;
        Ok(Self { input, ids, targets, n_targets, spans })
    }

    /// Some neighbouring rows as a batch of their own.
    ///
    /// # Errors
    /// Where there are none.
    pub fn rows(&self, rows: Range<usize>) -> Result<Self> {
        let len = self.input.row_len();
        let range = rows.start * len..rows.end * len;
        let (ids, targets) = (self.ids[range.clone()].to_vec(), self.targets[range.clone()].to_vec());
        let n_targets = targets.iter().filter(|&&target| target != IGNORE).count();
        let input =
            lm::batch::Batch::packed(ids.clone(), self.input.segments().ids[range.clone()].to_vec(), rows.len())?;
        let within = self.spans.iter().filter(|span| range.contains(&span.start));
        let spans = within.map(|&Span { start, len }| Span { start: start - range.start, len }).collect();
        Ok(Self { input, ids, targets, n_targets, spans })
    }

    /// Neighbouring rows, the same pieces for any number of ranks; a single one where there are less than twice [`PIECE_TOKENS`].
    ///
    /// On the CPU a gradient is computed piece by piece and added up by [`kernels::add_to`], so that it has the same bits whoever computes which:
    /// the product over a whole batch rounds differently from the sum of products over its halves.
    ///
    /// # Errors
    /// Where a piece cannot be made.
    pub(crate) fn pieces(&self) -> Result<Vec<Self>> {
        let n_rows = self.input.n_rows();
        let n_pieces = (self.ids.len() / PIECE_TOKENS).clamp(1, MOST_PIECES.min(n_rows));
        if n_pieces == 1 {
            return Ok(vec![self.clone()]);
        }
        (0..n_pieces).map(|i| self.rows(share(n_rows, i, n_pieces))).collect()
    }

    /// Number of tokens that are not padding.
    pub fn n_tokens(&self) -> u64 {
        self.spans.iter().map(|span| span.len as u64).sum()
    }
}

/// Packs examples, best fit in the given order: each goes into the fullest row that still has room for it. Returns rows of
/// indices into `lengths`.
pub fn pack(order: &[usize], lengths: &[usize], sequence_tokens: usize) -> Vec<Vec<usize>> {
    let mut rows: Vec<Vec<usize>> = Vec::new();
    let mut by_room: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for &example_idx in order {
        let len = lengths[example_idx];
        let fit = by_room.range(len..).next().map(|(&room, _)| room);
        let (row_idx, room) = if let Some(room) = fit {
            let open = by_room.get_mut(&room).expect("the room was just found");
            let row_idx = open.pop().expect("no empty list is kept");
            if open.is_empty() {
                by_room.remove(&room);
            }
            (row_idx, room)
        } else {
            rows.push(Vec::new());
            (rows.len() - 1, sequence_tokens)
        };
        rows[row_idx].push(example_idx);
        if room > len {
            by_room.entry(room - len).or_default().push(row_idx);
        }
    }
    rows
}

/// Endless batches of one set of examples: every epoch holds each example once, in an order of its own.
///
/// What batch `n` holds follows from the seed and `n` alone, so that a resumed phase goes on where it stopped.
#[derive(Debug)]
pub struct Feed {
    examples: Vec<Example>,
    lengths: Vec<usize>,
    sequence_tokens: usize,
    is_packed: bool,
    seed: u64,
    name: String,
    epoch: u64,
    /// Number of the epoch's first row, counted from the beginning of training.
    first_row: u64,
    rows: Vec<Vec<usize>>,
}

/// Whether several examples share a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Best fit into shared sequences.
    BestFit,
    /// One example per sequence.
    Single,
}

impl Feed {
    /// A feed of `examples` in sequences of `sequence_tokens`; `name` is the random stream that orders it.
    pub fn new(examples: Vec<Example>, sequence_tokens: usize, packing: Packing, seed: u64, name: &str) -> Self {
        let lengths = examples.iter().map(|example| example.ids.len()).collect();
        let is_packed = packing == Packing::BestFit;
        let (name, rows) = (name.to_owned(), Vec::new());
        let mut feed = Self { examples, lengths, sequence_tokens, is_packed, seed, name, epoch: 0, first_row: 0, rows };
        feed.rows = feed.draw_epoch(0);
        feed
    }

    /// Number of examples in an epoch.
    pub fn n_examples(&self) -> usize {
        self.examples.len()
    }

    /// Number of sequences in the first epoch; later ones differ by how well their order packs.
    pub fn n_rows(&self) -> usize {
        self.draw_epoch(0).len()
    }

    /// The epoch that the last batch ended in, from 0.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The `n_batches` batches of step `step`, each of `n_sequences` sequences.
    ///
    /// # Errors
    /// Where `n_sequences` is 0.
    pub fn batches(&mut self, step: u64, n_batches: usize, n_sequences: usize) -> Result<Vec<Batch>> {
        let first = step * n_batches as u64;
        (first..first + n_batches as u64).map(|index| self.batch(index, n_sequences)).collect()
    }

    /// Batch number `index` of `n_sequences` sequences.
    ///
    /// # Errors
    /// Where `n_sequences` is 0.
    pub fn batch(&mut self, index: u64, n_sequences: usize) -> Result<Batch> {
        let from = index * n_sequences as u64;
        let rows: Vec<Vec<usize>> = (from..from + n_sequences as u64).map(|row| self.row(row)).collect();
        let rows: Vec<Vec<&Example>> =
            rows.iter().map(|row| row.iter().map(|&example_idx| &self.examples[example_idx]).collect()).collect();
        Batch::assemble(&rows, self.sequence_tokens)
    }

    fn row(&mut self, number: u64) -> Vec<usize> {
        if number < self.first_row {
            (self.epoch, self.first_row) = (0, 0);
            self.rows = self.draw_epoch(0);
        }
        while number >= self.first_row + self.rows.len() as u64 {
            self.first_row += self.rows.len() as u64;
            self.epoch += 1;
            self.rows = self.draw_epoch(self.epoch);
        }
        self.rows[(number - self.first_row) as usize].clone()
    }

    fn draw_epoch(&self, epoch: u64) -> Vec<Vec<usize>> {
        let mut random = stream(self.seed, &self.name, epoch);
        let mut order: Vec<usize> = (0..self.examples.len()).collect();
        order.shuffle(&mut random);
        if !self.is_packed {
            return order.into_iter().map(|example_idx| vec![example_idx]).collect();
        }
        let mut rows = pack(&order, &self.lengths, self.sequence_tokens);
        // Best fit fills early rows with what was drawn early: shuffle, so that a batch is a fair sample of the epoch.
        rows.shuffle(&mut random);
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::{Batch, Example, Feed, IGNORE, Packing, pack};
    use std::collections::BTreeMap;

    fn examples() -> Vec<Example> {
        (0..40_u32).map(|i| Example::plain((0..2 + i % 9).map(|t| 100 * i + t).collect())).collect()
    }

    #[test]
    fn packing_keeps_every_example_once_and_within_the_length() {
        let lengths: Vec<usize> = examples().iter().map(|e| e.ids.len()).collect();
        let order: Vec<usize> = (0..lengths.len()).rev().collect();
        let rows = pack(&order, &lengths, 10);
        let mut seen: Vec<usize> = rows.iter().flatten().copied().collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
        assert!(rows.iter().all(|row| row.iter().map(|&i| lengths[i]).sum::<usize>() <= 10));
        let n_tokens: usize = lengths.iter().sum();
        assert!(rows.len() <= n_tokens.div_ceil(10) + 3, "{} rows", rows.len());
    }

    #[test]
    fn targets_are_the_next_tokens_within_an_example() {
        let a = Example::plain(vec![1, 2, 3]);
        let b = Example { ids: vec![4, 5, 6, 7], is_target: vec![false, false, true, true] };
        let batch = Batch::assemble(&[vec![&a, &b]], 8).unwrap();
        assert_eq!(batch.targets, [2, 3, IGNORE, IGNORE, 6, 7, IGNORE, IGNORE]);
        assert_eq!(batch.input.segments().ids, [0, 0, 0, 1, 1, 1, 1, u32::MAX]);
        assert_eq!(batch.input.segments().positions, [0, 1, 2, 0, 1, 2, 3, 0]);
        assert_eq!((batch.n_targets, batch.n_tokens(), batch.spans[1].start), (4, 7, 3));
    }

    #[test]
    fn rows_of_a_batch_are_what_they_would_be_alone() {
        let examples = examples();
        let rows: Vec<Vec<&Example>> = examples.chunks(2).take(5).map(|row| row.iter().collect()).collect();
        let whole = Batch::assemble(&rows, 24).unwrap();
        let (part, alone) = (whole.rows(1..4).unwrap(), Batch::assemble(&rows[1..4], 24).unwrap());
        assert_eq!((&part.ids, &part.targets, part.n_targets), (&alone.ids, &alone.targets, alone.n_targets));
        assert_eq!(part.spans, alone.spans);
        assert_eq!(part.input.segments().ids, alone.input.segments().ids);
        assert_eq!(part.input.segments().positions, alone.input.segments().positions);
        assert!(whole.rows(2..2).is_err());
    }

    #[test]
    fn pieces_of_a_batch_are_its_rows_and_none_is_small() {
        let example = Example::plain((0..128).collect());
        let of = |n_rows: usize| Batch::assemble(&vec![vec![&example]; n_rows], 128).unwrap();
        let n_rows = |n: usize| of(n).pieces().unwrap().iter().map(|piece| piece.input.n_rows()).collect::<Vec<_>>();
        assert_eq!((n_rows(1), n_rows(7), n_rows(8)), (vec![1], vec![7], vec![4, 4]));
        assert_eq!((n_rows(13), n_rows(100)), (vec![4, 4, 5], vec![12, 13, 12, 13, 12, 13, 12, 13]));
        let (whole, pieces) = (of(13), of(13).pieces().unwrap());
        assert_eq!(pieces.iter().flat_map(|piece| piece.targets.clone()).collect::<Vec<_>>(), whole.targets);
        assert_eq!(pieces.iter().map(|piece| piece.n_targets).sum::<usize>(), whole.n_targets);
        // A few long rows are no more pieces than rows.
        let long = Example::plain((0..2_048).collect());
        let batch = Batch::assemble(&[vec![&long], vec![&long]], 2_048).unwrap();
        assert_eq!(batch.pieces().unwrap().len(), 2);
    }

    #[test]
    fn an_epoch_holds_each_example_once_and_epochs_differ() {
        for packing in [Packing::BestFit, Packing::Single] {
            let mut feed = Feed::new(examples(), 16, packing, 7, "test");
            let n_rows = feed.n_rows() as u64;
            let mut seen: BTreeMap<u32, usize> = BTreeMap::new();
            let mut first = Vec::new();
            for row in 0..n_rows {
                let batch = feed.batch(row, 1).unwrap();
                for span in &batch.spans {
                    *seen.entry(batch.ids[span.start]).or_default() += 1;
                    first.push(batch.ids[span.start]);
                }
            }
            assert_eq!(seen.len(), 40);
            assert!(seen.values().all(|&n| n == 1));
            let mut second = Vec::new();
            for row in n_rows..n_rows + 5 {
                let batch = feed.batch(row, 1).unwrap();
                second.extend(batch.spans.iter().map(|span| batch.ids[span.start]));
            }
            assert_ne!(first[..second.len()], second);
        }
    }

    #[test]
    fn a_batch_depends_on_its_number_alone() {
        let mut undisturbed = Feed::new(examples(), 16, Packing::BestFit, 7, "test");
        let batches: Vec<Batch> = (0..30).map(|i| undisturbed.batch(i, 3).unwrap()).collect();
        let mut resumed = Feed::new(examples(), 16, Packing::BestFit, 7, "test");
        assert_eq!(resumed.batch(29, 3).unwrap().ids, batches[29].ids);
        assert_eq!(resumed.batch(4, 3).unwrap().ids, batches[4].ids);
    }
}
