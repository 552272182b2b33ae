//! What the shop sells: descriptions combined from words, so that similar products have similar names.

use std::collections::{HashMap, HashSet};

use super::dice::Dice;

/// When a product is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Season {
    Always,
    Christmas,
    Easter,
}

/// One product.
#[derive(Debug, Clone)]
pub struct Product {
    pub code: String,
    pub description: String,
    /// Price of one piece in pence.
    pub pence: u32,
    pub season: Season,
    /// Often typed with a space at the end.
    pub sloppy: bool,
}

/// Everything on offer.
#[derive(Debug)]
pub struct Catalogue {
    pub products: Vec<Product>,
    /// Products of each kind of article.
    pub families: Vec<Vec<u32>>,
    /// Running sum of how much each product is asked for.
    asked: Vec<f64>,
}

/// Articles and their usual price in pence.
const ARTICLES: [(&str, u32); 72] = [
    ("T-LIGHT HOLDER", 255),
    ("LUNCH BAG", 165),
    ("PARTY BUNTING", 495),
    ("MUG", 255),
    ("CAKE STAND", 1275),
    ("JUMBO BAG", 208),
    ("CAKE CASES", 55),
    ("ALARM CLOCK", 375),
    ("HOT WATER BOTTLE", 495),
    ("PHOTO FRAME", 295),
    ("DOORMAT", 795),
    ("COAT HANGER", 275),
    ("TISSUE BOX", 125),
    ("GIFT WRAP", 42),
    ("NOTEBOOK", 165),
    ("PENCIL CASE", 195),
    ("UMBRELLA", 595),
    ("APRON", 495),
    ("OVEN GLOVE", 255),
    ("TEA TOWEL", 295),
    ("TEAPOT", 695),
    ("BISCUIT TIN", 495),
    ("BREAD BIN", 1495),
    ("EGG CUP", 125),
    ("BOWL", 145),
    ("PLATE", 165),
    ("PAPER NAPKINS", 85),
    ("PAPER CUPS", 65),
    ("BALLOONS", 85),
    ("CANDLE", 165),
    ("LANTERN", 395),
    ("DOORSTOP", 425),
    ("CUSHION COVER", 375),
    ("WALL CLOCK", 1295),
    ("JEWELLERY BOX", 995),
    ("TRINKET BOX", 195),
    ("HAND MIRROR", 345),
    ("WASH BAG", 325),
    ("SHOPPER BAG", 195),
    ("RUCKSACK", 415),
    ("LUNCH BOX", 195),
    ("WATERING CAN", 495),
    ("PLANT POT", 125),
    ("BIRD FEEDER", 375),
    ("WIND CHIME", 295),
    ("GARDEN SIGN", 165),
    ("WREATH", 585),
    ("BAUBLE", 85),
    ("STOCKING", 295),
    ("ADVENT CALENDAR", 795),
    ("TREE DECORATION", 65),
    ("GREETING CARD", 42),
    ("STICKER SHEET", 85),
    ("SKIPPING ROPE", 125),
    ("JIGSAW PUZZLE", 295),
    ("RAG DOLL", 295),
    ("MONEY BOX", 125),
    ("MEMO BOARD", 495),
    ("FRIDGE MAGNETS", 145),
    ("KEY RING", 85),
    ("DRAWER KNOB", 145),
    ("HOOK RACK", 695),
    ("PICNIC BASKET", 1695),
    ("STORAGE JAR", 255),
    ("CUTLERY SET", 1275),
    ("PLACE MAT", 125),
    ("COASTERS", 145),
    ("RECIPE BOX", 795),
    ("SEWING KIT", 195),
    ("PLAYING CARDS", 125),
    ("HAND WARMER", 210),
    ("INCENSE STICKS", 55),
];
const COLOURS: [&str; 12] =
    ["PINK", "RED", "BLUE", "GREEN", "IVORY", "CREAM", "BLACK", "WHITE", "YELLOW", "LILAC", "MINT", "SILVER"];
const MOTIFS: [&str; 24] = [
    "RETROSPOT",
    "POLKADOT",
    "PAISLEY",
    "GINGHAM",
    "UNION FLAG",
    "STRAWBERRY",
    "WOODLAND",
    "SPACE ROCKET",
    "DOLLS HOUSE",
    "HEART",
    "STAR",
    "BUTTERFLY",
    "DAISY",
    "ROSE",
    "OWL",
    "SKULL",
    "TEA TIME",
    "LEAF",
    "APPLE",
    "BIRDCAGE",
    "ALPHABET",
    "CIRCUS",
    "LOVEBIRD",
    "VINTAGE FLORAL",
];
const CHRISTMAS: [&str; 6] = ["SANTA", "REINDEER", "SNOWFLAKE", "CHRISTMAS ROBIN", "GINGERBREAD", "NORDIC CHRISTMAS"];
const EASTER: [&str; 3] = ["EASTER BUNNY", "SPRING CHICK", "EASTER EGG"];
const MATERIALS: [&str; 10] =
    ["WOODEN", "GLASS", "ENAMEL", "CERAMIC", "ZINC", "METAL", "WICKER", "FELT", "KNITTED", "ANTIQUE"];
const SETS: [&str; 4] = ["SET OF 3", "SET OF 4", "SET OF 6", "PACK OF 12"];
/// Articles that are Christmas goods whatever their motif.
const CHRISTMAS_ARTICLES: [&str; 5] = ["WREATH", "BAUBLE", "STOCKING", "ADVENT CALENDAR", "TREE DECORATION"];

impl Catalogue {
    /// Makes an assortment that fits the size of the shop.
    pub fn new(rows: u64, seed: u64) -> Self {
        let wanted = ((rows as f64).powf(0.565) * 2.2).clamp(80.0, 4000.0) as usize;
        let mut dice = Dice::new(seed, 1);
        let mut products = Vec::with_capacity(wanted);
        let mut families = vec![Vec::new(); ARTICLES.len()];
        let mut descriptions = HashSet::new();
        let mut codes: HashMap<String, usize> = HashMap::new();
        // Far more combinations exist than products are wanted; the bound only keeps a mistake from hanging.
        for turn in 0..wanted * 50 {
            if products.len() == wanted {
                break;
            }
            let family = turn % ARTICLES.len();
            let named = name(ARTICLES[family].0, &mut dice);
            if !descriptions.insert(named.description.clone()) {
                continue;
            }
            let next = codes.len();
            let number = 20_000 + 7 * *codes.entry(named.without_colour).or_insert(next);
            let letter = named.colour.map_or(String::new(), |colour| char::from(b'A' + colour as u8).to_string());
            families[family].push(products.len() as u32);
            products.push(Product {
                code: format!("{number}{letter}"),
                description: named.description,
                pence: price(ARTICLES[family].1 * named.pieces, &mut dice),
                season: named.season,
                sloppy: dice.chance(0.04),
            });
        }
        let asked = popularity(products.len(), &mut dice);
        Self { products, families, asked }
    }

    /// Picks a product: a few are asked for all the time, most now and then.
    pub fn pick(&self, dice: &mut Dice) -> u32 {
        let all = self.asked.last().copied().unwrap_or_default();
        let wanted = dice.unit() * all;
        self.asked.partition_point(|sum| *sum <= wanted).min(self.asked.len() - 1) as u32
    }
}

struct Named {
    description: String,
    without_colour: String,
    colour: Option<usize>,
    season: Season,
    /// How many pieces' worth it costs.
    pieces: u32,
}

fn name(article: &str, dice: &mut Dice) -> Named {
    let mut season = if CHRISTMAS_ARTICLES.contains(&article) { Season::Christmas } else { Season::Always };
    let motif = match dice.below(20) {
        0 | 1 => {
            season = Season::Christmas;
            dice.pick(&CHRISTMAS)
        }
        2 if season == Season::Always => {
            season = Season::Easter;
            dice.pick(&EASTER)
        }
        _ => dice.pick(&MOTIFS),
    };
    let colour = dice.below(COLOURS.len());
    let shade = COLOURS[colour];
    let material = dice.pick(&MATERIALS);
    let set = dice.pick(&SETS);
    let (without_colour, description, pieces) = match dice.below(10) {
        0..=3 => (format!("{motif} {article}"), Some(format!("{shade} {motif} {article}")), 1),
        4 | 5 => (format!("{motif} {article}"), None, 1),
        6 => (format!("{material} {motif} {article}"), None, 1),
        7 => (format!("{material} {article}"), Some(format!("{shade} {material} {article}")), 1),
        8 => (format!("{set} {motif} {article}"), None, 3),
        _ => (format!("{article} , {motif}"), Some(format!("{article} , {shade} {motif}")), 1),
    };
    Named {
        colour: description.is_some().then_some(colour),
        description: description.unwrap_or_else(|| without_colour.clone()),
        without_colour,
        season,
        pieces,
    }
}

/// Gives a price near the usual one that ends like prices do.
fn price(usual: u32, dice: &mut Dice) -> u32 {
    let near = f64::from(usual) * dice.spread(0.25);
    let tens = (near / 10.0).round().clamp(2.0, 5000.0) as u32 * 10;
    tens + dice.pick(&[5, 5, 5, 9]) - if tens > 100 { 10 } else { 0 }
}

fn popularity(products: usize, dice: &mut Dice) -> Vec<f64> {
    let mut ranks: Vec<usize> = (0..products).collect();
    for i in (1..products).rev() {
        ranks.swap(i, dice.below(i + 1));
    }
    let mut sum = 0.0;
    ranks
        .into_iter()
        .map(|rank| {
            sum += (rank as f64 + 6.0).powf(-0.75);
            sum
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_and_codes_are_distinct_and_the_size_fits() {
        for (rows, least, most) in [(1, 80, 80), (20_000, 500, 700), (541_909, 3_500, 4_000), (u64::MAX, 4_000, 4_000)]
        {
            let catalogue = Catalogue::new(rows, 42);
            let products = &catalogue.products;
            assert!((least..=most).contains(&products.len()), "{rows}: {}", products.len());
            let codes: HashSet<_> = products.iter().map(|product| &product.code).collect();
            assert_eq!(codes.len(), products.len());
            assert!(products.iter().all(|product| product.pence > 0 && product.description.is_ascii()));
        }
    }
}
