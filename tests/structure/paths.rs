//! Finds paths in the tokens of macros and attributes, which have their own grammar.

use syn::buffer::{Cursor, TokenBuffer};
use syn::ext::IdentExt;

/// Everything that has the form of a path, including single names. Names after a dot are fields and methods.
pub fn in_tokens(tokens: &TokenBuffer) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    collect(tokens.begin(), &mut paths);
    paths
}

fn collect(mut cursor: Cursor, paths: &mut Vec<Vec<String>>) {
    let mut after_dot = false;
    while !cursor.eof() {
        if let Some((ident, rest)) = cursor.ident() {
            let mut path = vec![ident.unraw().to_string()];
            cursor = rest;
            while let Some((segment, rest)) = next_segment(cursor) {
                path.push(segment);
                cursor = rest;
            }
            if !after_dot {
                paths.push(path);
            }
            after_dot = false;
        } else if let Some((inside, _, _, rest)) = cursor.any_group() {
            collect(inside, paths);
            (cursor, after_dot) = (rest, false);
        } else {
            after_dot = cursor.punct().is_some_and(|(punct, _)| punct.as_char() == '.') && !after_dot;
            let Some((_, rest)) = cursor.token_tree() else { return };
            cursor = rest;
        }
    }
}

/// The segment after `::`.
fn next_segment(cursor: Cursor) -> Option<(String, Cursor)> {
    let (first, rest) = cursor.punct()?;
    let (second, rest) = rest.punct()?;
    let (ident, rest) = rest.ident()?;
    (first.as_char() == ':' && second.as_char() == ':').then(|| (ident.unraw().to_string(), rest))
}
