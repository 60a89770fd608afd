"""The simulated shop keeps its promises; above all, its truth is true."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from churn.domain.windows import eligible, known
from churn.errors import BadInput
from churn.jobs.simulate import default_cutoffs, simulate_shop
from churn.simulator.draws import DAY_US, People, Rows, draw_visits
from churn.simulator.hazards import Delay, Exposure, Floats, Hazards, LogUniform, Population, Season, Tier
from churn.simulator.shop import Shop, ShopConfig, simulate
from churn.simulator.truth import Past, Window, attainable_probability, past_at, true_probability
from churn.stores.shop_files import ParquetShop

HORIZON = timedelta(days=60)
CUTOFF = datetime(2025, 6, 1, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


@pytest.fixture(scope="module")
def shop() -> Shop:
    return simulate(ShopConfig(users=20_000))


@pytest.fixture(scope="module")
def graded(shop: Shop) -> pd.DataFrame:
    """The truth at CUTOFF beside what happened, read from the raw tables alone."""
    truth = shop.truth([CUTOFF], HORIZON).to_pandas()
    return truth.assign(churned=~truth.user_id.isin(_active_users(shop, CUTOFF)))


def _active_users(shop: Shop, cutoff: datetime) -> set[int]:
    orders, sessions = shop.orders.to_pandas(), shop.user_sessions.to_pandas()
    begin, end = cutoff.replace(tzinfo=None), (cutoff + HORIZON).replace(tzinfo=None)
    bought = orders[(orders.order_amount >= 0) & (orders.order_date >= begin) & (orders.order_date < end)]
    came = sessions[(sessions.session_start >= begin) & (sessions.session_start < end)]
    return set(bought.user_id) | set(came.user_id)


def _assert_calibrated(probability: pd.Series, churned: pd.Series) -> None:
    """In each tenth of the users, as many go silent as the probabilities say: within four standard deviations."""
    tenth = pd.qcut(probability.rank(method="first"), 10, labels=False)
    table = pd.DataFrame({"expected": probability, "variance": probability * (1 - probability), "found": churned})
    sums = table.groupby(tenth).sum()
    # Less than one silent user expected in a tenth: then the normal limit would be too narrow.
    limit = 4 * np.sqrt(sums.variance) + 3
    assert ((sums.found - sums.expected).abs() < limit).all(), sums
    assert abs(table.found.sum() - table.expected.sum()) < 4 * np.sqrt(table.variance.sum())


# -- the raw tables


def test_tables_have_the_columns_and_types_of_the_raw_input(shop: Shop) -> None:
    time = pa.timestamp("us")
    assert shop.users.schema == pa.schema(
        {
            "user_id": pa.int64(),
            "email": pa.string(),
            "created_at": time,
            "updated_at": time,
            "last_login_at": time,
            "subscription_tier": pa.string(),
        }
    )
    assert shop.orders.schema == pa.schema(
        {
            "order_id": pa.string(),
            "user_id": pa.int64(),
            "order_amount": pa.float64(),
            "order_date": time,
            "ingested_at": time,
        }
    )
    assert shop.user_sessions.schema == pa.schema(
        {
            "session_id": pa.string(),
            "user_id": pa.int64(),
            "session_start": time,
            "session_duration_minutes": pa.float64(),
            "ingested_at": time,
        }
    )


def test_user_ids_may_be_random_uuids() -> None:
    config = ShopConfig(users=50, days=100, user_id_type="string")
    ids = simulate(config).users["user_id"].to_pylist()
    assert len(set(ids)) == 50
    assert {uuid.UUID(each).version for each in ids} == {4}
    assert simulate(config).truth([config.end], HORIZON).schema.field("user_id").type == pa.string()


def test_equal_configs_give_equal_shops_and_another_seed_another_one() -> None:
    first, second = simulate(ShopConfig(users=300, seed=7)), simulate(ShopConfig(users=300, seed=7))
    other = simulate(ShopConfig(users=300, seed=8))
    assert first.users.equals(second.users)
    assert first.orders.equals(second.orders)
    assert first.user_sessions.equals(second.user_sessions)
    assert first.truth([CUTOFF], HORIZON).equals(second.truth([CUTOFF], HORIZON))
    assert not first.orders.equals(other.orders)


def test_ids_are_unique_and_every_event_belongs_to_a_user(shop: Shop) -> None:
    users, orders, sessions = (each.to_pandas() for each in (shop.users, shop.orders, shop.user_sessions))
    assert users.user_id.is_unique
    assert orders.order_id.is_unique
    assert sessions.session_id.is_unique
    assert set(orders.user_id) | set(sessions.user_id) <= set(users.user_id)
    assert users.email.str.endswith("@example.invalid").all()


def test_events_lie_between_signup_and_the_end_of_the_log_and_are_written_later_but_before_that_end(shop: Shop) -> None:
    end = pd.Timestamp("2025-12-31")
    created = shop.users.to_pandas().set_index("user_id").created_at
    for table, at in ((shop.orders, "order_date"), (shop.user_sessions, "session_start")):
        rows = table.to_pandas()
        assert (rows[at] >= rows.user_id.map(created)).all()
        assert (rows.ingested_at >= rows[at]).all()
        assert rows.ingested_at.max() < end
        assert rows[at].is_monotonic_increasing
    assert created.min() >= pd.Timestamp("2024-01-01")
    assert created.max() < end


def test_one_event_in_ten_is_late_by_an_hour_to_ten_days_and_the_others_are_written_within_minutes(shop: Shop) -> None:
    sessions = shop.user_sessions.to_pandas()
    delay = sessions.ingested_at - sessions.session_start
    early_enough = sessions.session_start < pd.Timestamp("2025-12-01")  # later, the late ones are not yet written
    late = delay[early_enough] > 15 * MINUTE
    assert late.mean() == pytest.approx(0.10, abs=0.01)
    assert delay[early_enough][late].min() >= HOUR - timedelta(microseconds=1)
    assert delay.max() <= timedelta(days=10)


def test_refunds_are_rows_of_their_own_with_a_negative_amount_after_an_order_of_that_user(shop: Shop) -> None:
    orders = shop.orders.to_pandas()
    refunds, bought = orders[orders.order_amount < 0], orders[orders.order_amount > 0]
    assert len(refunds) + len(bought) == len(orders)
    assert len(refunds) / len(bought) == pytest.approx(0.06, abs=0.005)
    first_written = bought.groupby("user_id").ingested_at.min()
    assert (refunds.order_date > refunds.user_id.map(first_written)).all()
    assert -refunds.order_amount.min() <= bought.order_amount.max()


def test_saturdays_and_decembers_are_busier_as_the_season_says(shop: Shop) -> None:
    season = Season(weekday=(1, 1, 1, 1, 1, 3, 2), yearly=0.5, peak_day_of_year=349)
    start = datetime(2024, 1, 1, tzinfo=UTC)  # a Monday
    assert season.intensity(start.date(), 7) / season.intensity(start.date(), 1) == pytest.approx(
        [1, 1, 1, 1, 1, 3, 2], rel=0.02
    )
    at = shop.user_sessions.to_pandas().session_start
    by_day = at.dt.dayofweek.value_counts()
    assert by_day[5] / by_day[1] == pytest.approx(1.16 / 0.90, rel=0.05)
    daily = season.intensity(start.date(), 366)
    assert daily[349 - 1 - 3 : 349 - 1 + 4].mean() / daily[166 - 3 : 166 + 4].mean() == pytest.approx(3, rel=0.02)


def test_mutable_columns_are_final_values_and_tell_who_has_left(shop: Shop) -> None:
    users = shop.users.to_pandas().set_index("user_id")
    last = shop.user_sessions.to_pandas().groupby("user_id").session_start.max()
    assert (users.last_login_at.dropna() == last).all()
    assert (users.updated_at >= users.created_at).all()
    assert users.updated_at.max() < pd.Timestamp("2025-12-31")
    assert set(users.subscription_tier) == {"free", "basic", "premium"}
    left = pd.Series(shop.people.left_at < 730 * DAY_US, index=users.index)
    assert left[users.subscription_tier == "free"].mean() > 2 * left[users.subscription_tier == "premium"].mean()


def test_the_smallest_shop_has_all_tables() -> None:
    shop = simulate(ShopConfig(users=1, days=1))
    assert (shop.users.num_rows, shop.orders.schema.names[0], shop.user_sessions.schema.names[0]) == (
        1,
        "order_id",
        "session_id",
    )


# -- the truth


def test_true_probability_is_the_frequency_of_silence_in_every_tenth_of_the_users(graded: pd.DataFrame) -> None:
    living = graded[graded.true_probability < 1]
    assert len(living) > 3_000
    _assert_calibrated(living.true_probability, living.churned)


def test_who_has_left_stays_silent_and_nobody_else_is_certain(graded: pd.DataFrame) -> None:
    gone = graded.true_probability == 1
    assert graded.churned[gone].all()
    assert (graded.true_probability[~gone] < 1 - 1e-9).all()
    assert (graded.true_probability > 0).all()


def test_attainable_probability_is_the_frequency_of_silence_in_every_tenth_of_the_eligible(
    graded: pd.DataFrame,
) -> None:
    users = graded[graded.eligible]
    assert len(users) > 3_000
    _assert_calibrated(users.attainable_probability, users.churned)


def test_the_shop_is_as_hard_as_a_real_one(graded: pd.DataFrame) -> None:
    users = graded[graded.eligible]
    assert 0.25 < users.churned.mean() < 0.40
    assert 0.80 < roc_auc_score(users.churned, users.attainable_probability) < 0.88
    assert users.attainable_probability.between(0, 1, inclusive="neither").all()
    assert users.attainable_probability.between(0.005, 0.99).mean() > 0.98
    assert graded[~graded.eligible].attainable_probability.isna().all()


def test_one_user_lived_20000_times_goes_silent_as_often_as_the_truth_says() -> None:
    lives, days, cutoff = 20_000, 200, 100
    rng = np.random.default_rng(5)
    rate, loss = 0.03, 0.01
    left_at = (90 + rng.standard_exponential(lives) / loss) * DAY_US  # signed up on day 90
    people = People(
        signup=np.full(lives, 90 * DAY_US),
        tier=np.zeros(lives, dtype=np.int64),
        rate=np.full(lives, rate),
        loss=np.full(lives, loss),
        left_at=left_at.astype(np.int64),
        order_share=np.full(lives, 0.5),
    )
    intensity = Season().intensity(datetime(2024, 1, 1, tzinfo=UTC).date(), days)
    visits = draw_visits(people, Exposure(intensity), Delay(), rng)
    inside = (visits.at >= cutoff * DAY_US) & (visits.at < (cutoff + 60) * DAY_US)
    silent = np.bincount(visits.owner[inside], minlength=lives) == 0
    living = people.left_at >= cutoff * DAY_US
    truth = true_probability(people, Window(cutoff, 60, intensity))
    assert silent[living].mean() == pytest.approx(truth[living][0], abs=0.015)
    assert np.unique(truth).round(3).tolist() == [0.387, 1.0]  # 0.318 without a season; spring is quiet


def test_without_season_the_truth_is_the_formula_in_the_books() -> None:
    people = People(*(np.array([each]) for each in (0, 0, 0.05, 0.02, 100 * DAY_US, 0.5)))
    # left within the horizon before any visit: loss / (rate + loss) * (1 - e^-(rate + loss) 30); or neither: e^-(…) 30
    expected = 0.02 / 0.07 * (1 - np.exp(-0.07 * 30)) + np.exp(-0.07 * 30)
    assert true_probability(people, Window(50, 30, np.ones(80))) == pytest.approx([expected], rel=1e-12)


Exposed = Callable[[Floats], Floats]


def test_without_season_and_delay_the_attainable_probability_is_the_one_of_pareto_nbd() -> None:
    population = Population(tiers=(Tier("only", 1.0, 1.0, 1.0),), rate_mean=0.05, loss_days=120.0)
    prompt = Delay(late_share=0.0, prompt=LogUniform(1e-9, 2e-9))
    past = Past(signup=np.array([10.0]), last=np.array([70.25]), count=np.array([3]))
    found = attainable_probability(Hazards(population, delay=prompt), Window(100, 60, np.ones(160)), past)
    assert found == pytest.approx([_by_small_steps(population, lambda moment: moment, past)], rel=1e-4)


@pytest.mark.parametrize(("last", "count"), [(41.5, 1), (72.3, 4), (99.7, 1), (99.99, 40)])
def test_with_season_late_events_and_tiers_the_attainable_probability_is_the_integral_over_the_moment_of_leaving(
    last: float, count: int
) -> None:
    population = Population(tiers=(Tier("most", 0.7, 0.5, 0.7), Tier("some", 0.3, 2.0, 3.0)))
    intensity = Season().intensity(datetime(2024, 1, 1, tzinfo=UTC).date(), 160)
    minutes = np.arange(160 * 1440 + 1) / 1440
    written = -np.diff(Delay().cumulated_chance(np.maximum(100 - minutes, 0)))
    visible = np.where(minutes[:-1] < 100, written, 1 / 1440) * np.repeat(intensity, 1440)
    seen = np.concatenate(([0.0], np.cumsum(visible)))
    past = Past(signup=np.array([10.0]), last=np.array([last]), count=np.array([count]))
    found = attainable_probability(Hazards(population), Window(100, 60, intensity), past)
    expected = _by_small_steps(population, lambda moment: np.interp(moment, minutes, seen), past)
    assert found == pytest.approx([expected], abs=1e-4)


def _by_small_steps(population: Population, exposure: Exposed, past: Past) -> float:
    """Of one user, at day 100 with horizon 60: the textbook's sums over tiers and moments of leaving."""
    parts = np.array([_chances(population, tier, exposure, past) for tier in population.tiers])
    silent, known_past = parts.sum(axis=0)
    return float(silent / known_past)


def _chances(population: Population, tier: Tier, exposure: Exposed, past: Past) -> tuple[float, float]:
    """The chances, up to a common factor, of tier, past and silent horizon, and of tier and past."""
    scale = population.rate_mean * tier.rate_factor / population.rate_shape
    days, shape = population.loss_days * tier.lifetime_factor, population.loss_shape

    def visits_end_by(moment: Floats) -> Floats:
        mean = 1 + scale * (exposure(moment) - exposure(past.signup))
        return scale ** past.count[0] * mean ** -(population.rate_shape + past.count[0])

    def leaves_between(begin: float, end: float) -> float:
        step = (end - begin) / 100_000
        moment = begin + (np.arange(100_000) + 0.5) * step
        density = shape / days * (1 + (moment - past.signup) / days) ** -(shape + 1)
        return float((density * visits_end_by(moment)).sum() * step)

    def stays_until(moment: float) -> float:
        return float(((1 + (moment - past.signup) / days) ** -shape * visits_end_by(np.array([moment])))[0])

    before, within = leaves_between(past.last[0], 100), leaves_between(100, 160)
    return tier.share * (before + within + stays_until(160)), tier.share * (before + stays_until(100))


def test_a_visit_that_is_not_written_by_the_cutoff_is_not_known_at_it() -> None:
    days = np.array([1, 2, 3, 5]) * DAY_US
    written = np.array([4, 6, 4, 5]) * DAY_US
    visits = Rows(owner=np.array([0, 1, 0, 1]), at=days, ingested=written)
    past = past_at(np.array([0, 0, 4, 5]) * DAY_US, visits, cutoff=5)
    assert past.last.tolist() == [3, -np.inf, -np.inf]
    assert past.count.tolist() == [2, 0, 0]
    assert past.signup.tolist() == [0, 0, 4]  # who signs up at the cutoff is not there yet


def test_a_user_unseen_for_longer_is_more_likely_silent_and_a_rare_visitor_is_less_suspicious() -> None:
    past = Past(signup=np.zeros(4), last=np.array([150.0, 190, 150, 190]), count=np.array([30, 30, 3, 3]))
    window = Window(200, 60, np.ones(260))
    often_long_ago, often_lately, rare_long_ago, rare_lately = attainable_probability(Hazards(), window, past)
    assert often_long_ago > 0.95
    assert often_lately < 0.35
    assert often_lately < rare_lately < rare_long_ago < often_long_ago


def test_the_truth_is_about_everybody_who_had_signed_up_and_eligible_means_what_the_domain_says() -> None:
    shop = simulate(ShopConfig(users=200, days=300, seed=3))
    cutoff = datetime(2024, 8, 1, tzinfo=UTC)
    truth = shop.truth([cutoff], HORIZON).to_pandas()
    users = shop.users.to_pandas()
    assert truth.user_id.tolist() == users.user_id[users.created_at < "2024-08-01"].tolist()
    assert truth.eligible.tolist() == [_eligible_by_hand(shop, user, cutoff) for user in truth.user_id]
    assert 20 < truth.eligible.sum() < len(truth) - 20


def _eligible_by_hand(shop: Shop, user: int, cutoff: datetime) -> bool:
    orders, sessions = shop.orders.to_pylist(), shop.user_sessions.to_pylist()
    activity = [
        *(
            (row["order_date"], row["ingested_at"])
            for row in orders
            if row["user_id"] == user and row["order_amount"] >= 0
        ),
        *((row["session_start"], row["ingested_at"]) for row in sessions if row["user_id"] == user),
    ]
    times = [(at.replace(tzinfo=UTC), written.replace(tzinfo=UTC)) for at, written in activity]
    last = max((at for at, written in times if known(at, written, cutoff)), default=None)
    return eligible(None if last is None else (cutoff - last) / timedelta(days=1), HORIZON)


def test_the_truth_names_cutoff_and_horizon_and_marks_what_has_not_matured() -> None:
    shop = simulate(ShopConfig(users=30, days=100))  # the log ends on 2024-04-10
    newest_matured, too_late = datetime(2024, 2, 10, tzinfo=UTC), datetime(2024, 2, 11, tzinfo=UTC)
    truth = shop.truth([newest_matured, too_late], HORIZON).to_pandas()
    assert truth.columns.tolist() == [
        "user_id",
        "cutoff",
        "horizon_days",
        "eligible",
        "matured",
        "true_probability",
        "attainable_probability",
    ]
    assert truth.groupby("cutoff").matured.unique().map(list).to_dict() == {
        pd.Timestamp("2024-02-10"): [True],
        pd.Timestamp("2024-02-11"): [False],
    }
    assert set(truth.horizon_days) == {60}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"users": 0}, "no shop has 0 users over 730 days"),
        ({"days": 0}, "no shop has 5000 users over 0 days"),
        ({"seed": -1}, "with seed -1"),
        ({"start": datetime(2024, 1, 1, 6, tzinfo=UTC)}, "not at a midnight in UTC"),
    ],
)
def test_a_shop_that_cannot_be_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        ShopConfig(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cutoffs", "horizon"),
    [
        ([datetime(2024, 1, 1, tzinfo=UTC)], HORIZON),
        ([datetime(2024, 4, 11, tzinfo=UTC)], HORIZON),
        ([datetime(2024, 2, 1, 12, tzinfo=UTC)], HORIZON),
        ([datetime(2024, 2, 1, tzinfo=UTC)], timedelta(hours=36)),
        ([], HORIZON),
    ],
)
def test_a_truth_that_cannot_be_told_is_refused(cutoffs: list[datetime], horizon: timedelta) -> None:
    with pytest.raises(BadInput):
        simulate(ShopConfig(users=3, days=100)).truth(cutoffs, horizon)


# -- the job and its files


def test_simulate_writes_the_raw_tables_and_the_truth_beside_them(tmp_path: Path) -> None:
    config = ShopConfig(users=400, days=120)
    report = simulate_shop(config, ParquetShop(tmp_path / "shop"), horizon=HORIZON)
    assert sorted(path.name for path in (tmp_path / "shop").iterdir()) == [
        "orders.parquet",
        "truth.parquet",
        "user_sessions.parquet",
        "users.parquet",
    ]
    assert pq.read_table(tmp_path / "shop" / "orders.parquet").equals(simulate(config).orders)
    assert (report.users, report.orders) == (400, simulate(config).orders.num_rows)
    assert 0 < report.refunds < report.orders
    assert report.graded_cutoff == datetime(2024, 3, 1, tzinfo=UTC)
    assert report.expected_churn_rate is not None
    assert 0.2 < report.expected_churn_rate < 0.5


def test_a_shop_in_which_nothing_happens_is_reported_as_such(tmp_path: Path) -> None:
    report = simulate_shop(ShopConfig(users=1, days=1), ParquetShop(tmp_path), horizon=HORIZON)
    assert (report.refunds, report.first_event, report.graded_cutoff, report.expected_churn_rate) == (
        0,
        None,
        None,
        None,
    )


def test_default_cutoffs_are_monthly_with_the_newest_matured_and_the_end_of_the_log() -> None:
    found = default_cutoffs(ShopConfig(days=100), HORIZON)
    assert [f"{each:%Y-%m-%d}" for each in found] == [
        "2024-02-01",
        "2024-02-10",
        "2024-03-01",
        "2024-04-01",
        "2024-04-10",
    ]


def test_cutoffs_may_be_chosen(tmp_path: Path) -> None:
    chosen = [datetime(2024, 3, 5, tzinfo=UTC), datetime(2024, 2, 5, tzinfo=UTC)]
    report = simulate_shop(
        ShopConfig(users=20, days=100), ParquetShop(tmp_path), horizon=timedelta(days=14), cutoffs=chosen
    )
    assert report.cutoffs == (datetime(2024, 2, 5, tzinfo=UTC), datetime(2024, 3, 5, tzinfo=UTC))


def test_an_older_simulated_shop_is_replaced_but_real_tables_are_never_written_over(tmp_path: Path) -> None:
    config, files = ShopConfig(users=10, days=50), ParquetShop(tmp_path)
    simulate_shop(config, files, horizon=HORIZON)
    simulate_shop(config, files, horizon=HORIZON)
    (tmp_path / "truth.parquet").unlink()
    before = (tmp_path / "users.parquet").read_bytes()
    with pytest.raises(BadInput, match="of a shop that was not simulated"):
        simulate_shop(ShopConfig(users=11, days=50), files, horizon=HORIZON)
    assert (tmp_path / "users.parquet").read_bytes() == before


def test_a_folder_that_cannot_be_written_is_a_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(BadInput, match="cannot write to"):
        simulate_shop(ShopConfig(users=3, days=50), ParquetShop(tmp_path / "file"), horizon=HORIZON)
