//! Reading Rust as text: code without comments and strings, words, functions, tests.

/// The text with every character of comments, strings and characters blanked; lines stay where they are.
pub(super) fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let after_word = code.chars().next_back().is_some_and(is_word);
        let blanked = blanked_bytes(rest, after_word);
        let taken = if blanked == 0 { first.len_utf8() } else { blanked };
        let (piece, remaining) = rest.split_at(taken);
        if blanked == 0 {
            code.push(first);
        } else {
            code.extend(piece.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        }
        rest = remaining;
    }
    code
}

/// How many bytes at the front are a comment or a literal.
fn blanked_bytes(rest: &str, after_word: bool) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return rest.find("*/").map_or(rest.len(), |end| end + 2);
    }
    if let Some(raw) = rest.strip_prefix('r').or_else(|| rest.strip_prefix("br")) {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if !after_word && raw[hashes..].starts_with('"') {
            let begin = rest.len() - raw.len() + hashes + 1;
            let end = format!("\"{}", "#".repeat(hashes));
            return rest[begin..].find(&end).map_or(rest.len(), |at| begin + at + end.len());
        }
    }
    if rest.starts_with('"') {
        return literal_bytes(rest, '"');
    }
    // A lifetime has no second quote one character, or one escape, after the first.
    let mut inside = rest.strip_prefix('\'').unwrap_or_default().chars();
    match (inside.next(), inside.next()) {
        (Some('\\'), _) => literal_bytes(rest, '\''),
        (Some(c), Some('\'')) => 2 + c.len_utf8(),
        _ => 0,
    }
}

fn literal_bytes(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        if c == quote && !escaped {
            return at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    rest.len()
}

/// Code without the items that are compiled for tests only, and how many lines those have; the lines
/// of the rest stay where they are.
pub(super) fn without_tests(code: &str) -> (String, usize) {
    let (mut kept, mut cut) = (String::with_capacity(code.len()), 0);
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        let (before, from_item) = rest.split_at(at);
        let (item, after) = from_item.split_at(item_bytes(from_item));
        let breaks = item.matches('\n').count();
        kept.push_str(before);
        kept.extend(std::iter::repeat_n('\n', breaks));
        cut += breaks + 1;
        rest = after;
    }
    kept.push_str(rest);
    (kept, cut)
}

/// How far an item reaches: to its semicolon, or to the brace that ends it.
fn item_bytes(item: &str) -> usize {
    match item.find([';', '{']) {
        Some(at) if item[at..].starts_with('{') => at + block_bytes(&item[at..]),
        Some(at) => at + 1,
        None => item.len(),
    }
}

/// How far a block reaches whose brace stands at the front.
fn block_bytes(block: &str) -> usize {
    let mut depth = 0usize;
    for (at, c) in block.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    block.len()
}

/// Where words stand in text, whole words only: lines from 1, with the word.
pub(super) fn words<'a>(
    text: &'a str,
    words: &'a [&'a str],
) -> impl Iterator<Item = (usize, &'a str)> {
    text.lines().enumerate().flat_map(move |(at, line)| {
        words.iter().filter(move |word| has_word(line, word)).map(move |word| (at + 1, *word))
    })
}

fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let ends_in_word = word.chars().next_back().is_some_and(is_word);
        let goes_on = ends_in_word && after.is_some_and(is_word);
        !goes_on && !before.is_some_and(is_word)
    })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Function<'a> {
    pub(super) name: &'a str,
    /// Where it begins, from 1.
    pub(super) line: usize,
    /// From its first to its last line.
    pub(super) lines: usize,
}

pub(super) fn functions(code: &str) -> Vec<Function<'_>> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        if code[..at].chars().next_back().is_some_and(is_word) {
            continue;
        }
        let item = &code[at..];
        let name = item["fn ".len()..].split(|c| !is_word(c)).next().unwrap_or_default();
        let item = &item[..item_bytes(item)];
        if name.is_empty() || !item.ends_with('}') {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        found.push(Function { name, line, lines: item.matches('\n').count() + 1 });
    }
    found
}

#[test]
fn literals_and_comments_are_blanked() {
    for (text, code) in [
        ("a // b\nc", "a     \nc"),
        ("a /* b\n */ c", "a     \n    c"),
        (r#"f("a\"{", b)"#, "f(      , b)"),
        ("f(r#\"a\"{\"#)", "f(        )"),
        ("f('{', '\\'', 'é')", "f(   ,     ,    )"),
        ("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)"),
        ("br\"x\"", "     "),
        ("bar\"x\"", "bar   "),
    ] {
        // A character of two bytes is one blank.
        assert_eq!(code_of(text).trim_end(), code.trim_end(), "{text}");
    }
}

#[test]
fn tests_are_cut_out_and_lines_stay() {
    let code = "a\n#[cfg(test)]\nmod tests {\n  { }\n}\nb\n#[cfg(test)]\nmod tests;\n";
    let (kept, cut) = without_tests(code);
    assert_eq!(cut, 6);
    assert_eq!(kept.lines().position(|line| line == "b"), Some(5));
    assert!(!kept.contains("tests"));
}

#[test]
fn functions_are_measured() {
    let code =
        "fn a() {}\ntrait T { fn b(); }\nfn c(\n  x: u8,\n) {\n  if x { }\n}\ntype F = fn (u8);\n";
    let expected =
        [Function { name: "a", line: 1, lines: 1 }, Function { name: "c", line: 3, lines: 5 }];
    assert_eq!(functions(code), expected);
}

#[test]
fn words_are_whole() {
    let found: Vec<_> =
        words("an Instant\nInstantly\nmy_thread::x std::thread::y\n", &["Instant", "thread::"])
            .collect();
    assert_eq!(found, [(1, "Instant"), (3, "thread::")]);
}
