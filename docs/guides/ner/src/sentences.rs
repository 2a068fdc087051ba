//! Sentences whose words have labels: one word and its label a line, an empty line after each sentence.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{bail, ensure, Context, Result};

/// As many words as labels.
pub struct Sentence {
    pub words: Vec<String>,
    pub labels: Vec<String>,
}

/// Reads a file of them. Labels are `O`, `B-…` for the first word of a name and `I-…` for those that go on with it.
pub fn read(path: &Path) -> Result<Vec<Sentence>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut found = vec![Sentence { words: vec![], labels: vec![] }];
    for (number, line) in text.lines().enumerate() {
        let sentence = found.last_mut().context("there is none")?;
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            [] if sentence.words.is_empty() => {}
            [] => found.push(Sentence { words: vec![], labels: vec![] }),
            [word, label] if follows(sentence.labels.last().map_or("O", String::as_str), label) => {
                sentence.words.push(word.to_owned());
                sentence.labels.push(label.to_owned());
            }
            [_, label] => bail!("{}:{}: {label} cannot stand here", path.display(), number + 1),
            _ => bail!("{}:{}: not a word and its label", path.display(), number + 1),
        }
    }
    found.retain(|sentence| !sentence.words.is_empty());
    ensure!(!found.is_empty(), "{} has no sentences", path.display());
    Ok(found)
}

/// Whether a label may follow another: `I-PER` goes on with `B-PER` or `I-PER` alone.
fn follows(before: &str, label: &str) -> bool {
    match label.split_once('-') {
        None => label == "O",
        Some(("B", kind)) => !kind.is_empty(),
        Some(("I", kind)) => before.split_once('-').is_some_and(|(_, begun)| begun == kind),
        Some(_) => false,
    }
}

/// The labels in the order of the head's outputs: the head's own names where it has them, else those of the sentences.
pub fn labels(head: Vec<String>, sentences: &[Sentence]) -> Result<Vec<String>> {
    let found: BTreeSet<&String> = sentences.iter().flat_map(|sentence| &sentence.labels).collect();
    if found.iter().all(|label| head.contains(label)) {
        return Ok(head);
    }
    let unnamed = head.iter().all(|label| label.starts_with("LABEL_"));
    ensure!(unnamed, "the head knows {}, and the sentences have others", head.join(", "));
    let (own, count) = (head.len(), found.len());
    ensure!(own == count, "the head has {own} labels and the sentences have {count}: add --num-labels {count}");
    Ok(found.into_iter().cloned().collect())
}
