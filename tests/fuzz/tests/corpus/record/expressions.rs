use super::{Seed, seed};

/// Conditions of every construct, good and bad; some with a scope of their own.
const TEXTS: [(&str, &str); 34] = [
    ("literals", "[12, -12, 0x1F, -9223372036854775808, 1.5, .5, 1e3, true, false, null]"),
    ("strings", r#"'a' + "b\n\x41\u00e9\U0001F600\101" + r'\d+' + '''three 'quotes' ''' // said in passing"#),
    ("arithmetic", "(1 + 2) * 3 - 4 / 2 % 3 + -2 * -3"),
    ("overflow", "params.large + 1 > params.small - 1 && params.large * params.large == 0"),
    ("division-by-zero", "1 / 0 == 1 % 0 || 1.0 / 0.0 > 1.0"),
    ("smallest-number", "-9223372036854775808 / -1 == 9223372036854775807 % -1"),
    ("numbers-of-both-kinds", "1 + 0.5 == 1.5 && 3 == 3.0 && params.huge * 10.0 > params.large"),
    ("logic", "true || 1 / 0 == 1 ? !false && true : false"),
    ("comparisons", "1 < 2 && 2 <= 2 && 3 > 2 && 'a' < 'b' && [1] != [2] && {'a': 1} == {'a': 1.0}"),
    ("membership", "'b' in ['a', 'b'] && !('c' in {'x': 1}) && 1 in [1.0]"),
    ("fields-and-indices", "tasks.check.outputs.report.tags[0] == 'a' && tasks['my-task'].state == \"failed\""),
    ("negative-index", "[1, 2, 3][-1] == 3 || [1][9223372036854775807] == 1"),
    ("has", "has(params.mode) && !has(params.missing) && has(tasks.check.outputs.report.rows)"),
    ("sizes", "size('äöü') + size([1, 2]) + size({'a': 1}) > 3"),
    ("texts", "'segue'.startsWith('se') && 'segue'.endsWith('ue') && 'segue'.contains('gu')"),
    ("matches", "params.mode.matches('^(f|F)u{1,2}l+$') && 'aaaaaaaaaaaaaaaaaaaaaaaa'.matches('(a*)*b')"),
    ("bad-pattern", "'a'.matches('(((((') || 'a'.matches('a{99999}{99999}')"),
    (
        "conversions",
        "int('12') + int(1.9) + int(true ? '3' : '4') == 16 && double('1e400') > 1.0 && string(1.0) == '1'",
    ),
    ("bad-conversions", "int('9223372036854775808') == int(1e300) || bool('yes')"),
    ("macros", "params.regions.all(r, r != '') && params.regions.exists(r, r == 'eu') && [1, 2].exists_one(x, x > 1)"),
    ("filter-and-map", "params.regions.filter(r, r.startsWith('e')).map(r, r + '!') == ['eu!']"),
    ("nested-macros", "[1,2,3,4,5,6,7,8].all(a, [1,2,3,4,5,6,7,8].all(b, [1,2,3,4,5,6,7,8].all(c, a + b + c > 0)))"),
    ("macros-over-a-map", "tasks.exists(t, tasks[t].state == 'failed') && tasks.score.children.all(k, k != '')"),
    ("shadowed-names", "params.regions.map(params, params.size())"),
    ("item-key-index", "item.id > 0 && key == 'eu' && index < 10 && run.state == 'failed' && run.id != ''"),
    ("long-chain", "a.b.b.b.b.b.b.b.b.b.b.b.b.b.b.b.b.b.b.b.b.b.b.b.b.b.b.b.b.b.b.b.b.b.b.b.b.b.b.b.b.b"),
    ("deep-brackets", "((((((((((((((((((((((((((((((((1))))))))))))))))))))))))))))))))"),
    ("deep-lists", "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]"),
    ("many-signs", "!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!----------------------------------1 == 1"),
    ("unfinished", "params.mode == 'fu"),
    ("nonsense", "params..mode =! 'full' &&& (1 +"),
    ("wide-characters", "'日本語' + params.mode == \"ﬀ\" ? '👩‍👩‍👧' : 'e\u{301}'"),
    (
        "own-scope",
        "params.a[0].b[tasks.t.outputs.o] > item\n---\n{\"params\": {\"a\": [{\"b\": {\"x\": 5}}]}, \"tasks\": {\"t\": {\"outputs\": {\"o\": \"x\"}}}, \"item\": 4.5}",
    ),
    (
        "growing-text",
        "params.t.map(a, params.t.map(b, a + b + a + b))\n---\n{\"params\": {\"t\": [\"xxxxxxxxxxxxxxxx\", \"yyyyyyyyyyyyyyyy\", \"zzzzzzzzzzzzzzzz\"]}}",
    ),
];

pub fn seeds() -> Vec<Seed> {
    TEXTS.iter().map(|(name, text)| seed(name, *text)).collect()
}
