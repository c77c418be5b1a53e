//! What a catalogue may say, and what it is told where it is wrong.

use chrono::TimeDelta;

use super::*;
use crate::domain::plan::{CheckoutOptions, Interval, Mode, Price, Quantity};

fn first_problem(text: &str) -> String {
    parse(text).unwrap_err()[0].to_string()
}

#[test]
fn the_built_in_catalogue() {
    let catalogue = parse(BUILT_IN).unwrap();
    let [trial, pro] = catalogue.plans() else { panic!("two plans") };
    assert_eq!((trial.level.as_str(), trial.rank, trial.mode, trial.once_per_user), ("TRIAL", 10, Mode::Payment, true));
    assert_eq!((trial.lasts, trial.grace, trial.price.interval), (Some(TimeDelta::days(7)), TimeDelta::zero(), None));
    assert_eq!(trial.price.charge, Charge::Inline { amount: 0, currency: "usd".into() });
    assert_eq!((pro.level.as_str(), pro.rank, pro.mode, pro.once_per_user), ("PRO", 20, Mode::Subscription, false));
    assert_eq!((pro.lasts, pro.grace, pro.price.interval), (None, TimeDelta::days(3), Some(Interval::Month)));
    assert_eq!(pro.price.charge, Charge::Inline { amount: 2_900, currency: "usd".into() });
}

#[test]
fn the_readme_shows_the_built_in_catalogue_and_one_that_can_be_read() {
    let readme = include_str!("../../../README.md");
    let examples: Vec<_> = readme.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let [built_in, full] = examples.as_slice() else { panic!("two examples") };
    assert_eq!(parse(built_in), parse(BUILT_IN));
    let catalogue = parse(full).unwrap();
    let [team] = catalogue.plans() else { panic!("one plan") };
    assert_eq!((team.price.interval, team.other_prices.len()), (Some(Interval::Year), 1));
}

#[test]
fn what_may_be_left_out() {
    let text = "[[plan]]\nlevel='TEAM'\nrank=1\nmode='subscription'\nprice='price_1'\nfeatures=['a','b']\n\
                [[plan]]\nlevel='DAY'\nrank=2\nmode='payment'\namount=5\n";
    let catalogue = parse(text).unwrap();
    let [team, day] = catalogue.plans() else { panic!("two plans") };
    assert_eq!(
        (team.name.as_str(), team.price.interval, team.grace),
        ("TEAM", Some(Interval::Month), TimeDelta::days(3))
    );
    assert_eq!((&team.price.charge, team.features.len()), (&Charge::Id("price_1".into()), 2));
    assert_eq!(day.price.charge, Charge::Inline { amount: 5, currency: "usd".into() });
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    let plan = |level: &str, rank: u32, rest: &str| format!("[[plan]]\nlevel = \"{level}\"\nrank = {rank}\n{rest}\n");
    let payment = "mode = \"payment\"\namount = 1";
    for (text, line, reason) in [
        (plan("pro", 1, payment), 2, "expected a level such as"),
        (plan("FREE", 1, payment), 2, "not FREE"),
        (plan("PRO", 1, "mode = \"gift\""), 4, "expected `payment` or `subscription`"),
        (plan("PRO", 1, "mode = \"payment\"\namount = -1"), 5, "cents from 0"),
        (plan("PRO", 1, "mode = \"payment\"\namount = 1.5"), 5, "invalid type"),
        (plan("PRO", 1, "mode = \"payment\"\namount = 1\ncurrency = \"USD\""), 6, "such as \"usd\""),
        (plan("PRO", 1, "mode = \"payment\"\nprice = \"prod_1\""), 5, "such as \"price_1AbC\""),
        (plan("PRO", 1, "mode = \"payment\"\namount = 1\nlasts = \"7 days\""), 6, "such as \"3d\""),
        (plan("PRO", 1, "mode = \"payment\"\namount = 1\ncolour = 1"), 6, "colour"),
        (plan("PRO", 1, "mode = \"payment\"\namount = 1\nname = \" \""), 6, "a name such as"),
        (plan("PRO", 1, "amount = 1"), 1, "mode"),
        (plan("PRO", 1, "mode = \"payment\""), 1, "plan PRO: a price is missing"),
        (plan("PRO", 1, "mode = \"payment\"\namount = 1\nprice = \"price_1\""), 1, "remove either"),
        (plan("PRO", 1, "mode = \"payment\"\namount = 1\ninterval = \"month\""), 1, "a payment has no interval"),
        (plan("PRO", 1, "mode = \"payment\"\namount = 1\ngrace = \"3d\""), 1, "a payment has no grace"),
        (plan("PRO", 1, "mode = \"subscription\"\namount = 1"), 1, "needs an interval"),
        (plan("PRO", 1, payment) + &plan("PRO", 2, payment), 6, "level PRO is sold by two plans"),
        (plan("PRO", 1, payment) + &plan("TEAM", 1, payment), 6, "have the same rank"),
        ("[plan".to_owned(), 1, ""),
        ("\n\nplans = 1".to_owned(), 3, "plans"),
        (String::new(), 1, "no plan at all"),
    ] {
        let problem = first_problem(&text);
        assert!(problem.starts_with(&format!("line {line}: ")) && problem.contains(reason), "{text}\n{problem}");
    }
}

#[test]
fn every_contradicting_plan_is_told() {
    let plan = "[[plan]]\nlevel = \"PRO\"\nrank = 1\nmode = \"payment\"\n";
    assert_eq!(parse(&plan.repeat(3)).unwrap_err().len(), 3);
}

#[test]
fn the_price_id_of_the_environment_replaces_an_inline_price() {
    let pro = |text: &str| {
        let (catalogue, warning) = with_pro_price(&parse(text).unwrap(), "price_env").unwrap();
        let pro = catalogue.plans().iter().find(|plan| plan.level.as_str() == "PRO");
        (pro.map(|plan| plan.price.charge.clone()), warning.is_some())
    };
    assert_eq!(pro(BUILT_IN), (Some(Charge::Id("price_env".into())), false));
    let own = "[[plan]]\nlevel='PRO'\nrank=1\nmode='subscription'\nprice='price_own'";
    assert_eq!(pro(own), (Some(Charge::Id("price_own".into())), true));
    assert_eq!(pro("[[plan]]\nlevel='DAY'\nrank=2\nmode='payment'\namount=5"), (None, true));

    let of_another = format!("{BUILT_IN}[[plan]]\nlevel='TEAM'\nrank=30\nmode='subscription'\nprice='price_env'");
    let refused = with_pro_price(&parse(&of_another).unwrap(), "price_env").unwrap_err().to_string();
    assert!(refused.contains("STRIPE_PRO_PRICE_ID") && refused.contains("price_env"), "{refused}");
}

const PRICES: &str = "[[plan]]\nlevel = \"PRO\"\nrank = 1\nmode = \"subscription\"\n";

#[test]
fn several_prices_of_one_level() {
    let text = format!(
        "{PRICES}[[plan.price]]\namount = 2900\ninterval = \"month\"\n\
         [[plan.price]]\nid = \"price_y\"\ninterval = \"year\"\n"
    );
    let read = |text: &str| parse(text).unwrap().plans()[0].clone();
    let monthly =
        Price { charge: Charge::Inline { amount: 2_900, currency: "usd".into() }, interval: Some(Interval::Month) };
    let yearly = Price { charge: Charge::Id("price_y".into()), interval: Some(Interval::Year) };
    let plan = read(&text);
    assert_eq!((&plan.price, plan.other_prices.as_slice()), (&monthly, std::slice::from_ref(&yearly)), "the first");
    let plan = read(&(text + "default = true\n"));
    assert_eq!((&plan.price, plan.other_prices.as_slice()), (&yearly, std::slice::from_ref(&monthly)), "as told");
    let dearer = format!(
        "{PRICES}[[plan.price]]\namount = 2900\ninterval = \"month\"\nformer = true\n[[plan.price]]\nid = \"price_m\"\n"
    );
    let plan = read(&dearer);
    assert_eq!((plan.prices().count(), plan.former_prices), (1, vec![monthly]));
}

#[test]
fn what_is_wrong_with_a_price_is_told_with_its_line() {
    let monthly = "[[plan.price]]\namount = 1\ninterval = \"month\"\n";
    for (rest, line, reason) in [
        ("price = []\n".to_owned(), 1, "a price is missing"),
        ("price = 5\n".to_owned(), 5, "a price id such as \"price_1AbC\", or [[plan.price]] tables"),
        (format!("amount = 1\n{monthly}"), 1, "remove the plan's"),
        (format!("interval = \"month\"\n{monthly}"), 1, "remove the plan's"),
        (format!("{monthly}{monthly}"), 8, "the same interval"),
        (format!("{monthly}[[plan.price]]\nid = \"price_1\"\n"), 8, "the same interval"),
        (
            format!("{monthly}default = true\n[[plan.price]]\nid = \"price_1\"\ninterval = \"year\"\ndefault = true"),
            9,
            "two prices are the default",
        ),
        (format!("{monthly}former = true\n"), 1, "a price is missing"),
        (format!("{monthly}former = true\ndefault = true\n"), 5, "a former price cannot be the default"),
        (format!("{monthly}[[plan.price]]\namount = 2\n"), 8, "needs an interval"),
        (format!("{monthly}[[plan.price]]\ninterval = \"year\"\n"), 8, "a price is missing"),
        (format!("{monthly}[[plan.price]]\nid = \"price_1\"\namount = 2\n"), 8, "remove either"),
        (format!("{monthly}[[plan.price]]\nid = \"prod_1\"\n"), 9, "such as \"price_1AbC\""),
        (format!("{monthly}[[plan.price]]\nid = \"price_1\"\ninterval = \"decade\"\n"), 10, "\"week\""),
        (format!("{monthly}[[plan.price]]\nname = \"a\"\n"), 9, "name"),
    ] {
        let text = format!("{PRICES}{rest}");
        let problem = first_problem(&text);
        assert!(problem.starts_with(&format!("line {line}: ")) && problem.contains(reason), "{text}\n{problem}");
    }
    let paid_once = "[[plan]]\nlevel='DAY'\nrank=1\nmode='payment'\n[[plan.price]]\namount=1\ninterval='month'";
    assert!(first_problem(paid_once).starts_with("line 5: plan DAY: a payment has no interval"));
    let one = "[[plan]]\nlevel='ONE'\nrank=1\nmode='subscription'\nprice='price_1'\n";
    let two = "[[plan]]\nlevel='TWO'\nrank=2\nmode='subscription'\nprice='price_1'\n";
    let problem = first_problem(&format!("{one}{two}"));
    assert!(problem.starts_with("line 6: plans ONE and TWO have the same price id price_1"), "{problem}");
}

#[test]
fn what_the_page_asks_and_offers() {
    let options = |rest: &str| {
        parse(&format!("{PRICES}price = \"price_1\"\n{rest}")).map(|catalogue| catalogue.plans()[0].checkout.clone())
    };
    assert_eq!(options("billing_address = \"auto\""), Ok(CheckoutOptions::default()));
    let all = "promotion_codes = true\nquantity = { min = 2, max = 50 }\ntax = true\nbilling_address = \"required\"\n\
               tax_id_collection = true\ntrial_days = 14\n";
    let expected = CheckoutOptions {
        promotion_codes: true,
        quantity: Some(Quantity { min: 2, max: 50 }),
        tax: true,
        billing_address: true,
        tax_id_collection: true,
        trial_days: Some(14),
    };
    assert_eq!(options(all), Ok(expected));
    for (rest, line, reason) in [
        ("promotion_codes = 1", 6, "expected a boolean"),
        ("quantity = 5", 6, "quantity"),
        ("quantity = { min = 0, max = 5 }", 6, "from 1 to 999999"),
        ("quantity = { min = 6, max = 5 }", 6, "from 1 to 999999"),
        ("quantity = { min = 1, max = 1000000 }", 6, "from 1 to 999999"),
        ("quantity = { min = 1 }", 6, "max"),
        ("billing_address = true", 6, "expected a string"),
        ("billing_address = \"never\"", 6, "\"required\" or \"auto\""),
        ("trial_days = 0", 6, "from 1 to 730"),
        ("trial_days = 731", 6, "from 1 to 730"),
        ("features = [\"a\", \"a\"]", 6, "each once"),
        ("features = [\"\"]", 6, "features such as"),
    ] {
        let problem = options(rest).unwrap_err()[0].to_string();
        assert!(problem.starts_with(&format!("line {line}: ")) && problem.contains(reason), "{rest}\n{problem}");
    }
    let trial = "[[plan]]\nlevel='DAY'\nrank=1\nmode='payment'\namount=1\ntrial_days=7";
    assert!(first_problem(trial).starts_with("line 1: plan DAY: a payment has no trial"));
}
