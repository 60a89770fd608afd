{{ config(unique_key=['user_id', 'cutoff'], pre_hook="{{ forget_cutoffs() }}") }}
{%- set windows = [7, 30, 90, 180, 365] %}
-- The features of every user as of every cutoff of this run. user_analytics.yml says what each column means.
-- Every window is [cutoff - length, cutoff); nothing below reads an event that was not known before the cutoff.
-- Sums are taken exactly (decimals, integers) and turned into doubles last, so that the order of rows, and the
-- number of threads, changes no bit.
with cutoffs as (
    {{ cutoffs() }}
),

totals as (
    select
        e.user_id,
        c.cutoff,
        min(e.event_at) as first_event_at,
        max(e.event_at) filter (e.kind = 'order') as last_order_at,
        max(e.event_at) filter (e.kind <> 'refund') as last_activity_at,
        arg_max(e.amount, e.position) filter (e.kind = 'order') as last_order_amount,
        count(*) filter (e.kind = 'order') as orders,
        count(*) filter (e.kind = 'refund') as refunds,
        count(*) filter (e.kind = 'session') as sessions,
        count(e.duration) as known_durations,
        sum(e.duration) as duration,
        {%- for days in windows %}
        count(*) filter (e.kind = 'order' and e.event_at >= c.cutoff - interval '{{ days }} day') as orders_{{ days }}d,
        sum(e.amount) filter (e.event_at >= c.cutoff - interval '{{ days }} day') as spent_{{ days }}d,
        count(*) filter (e.kind = 'session' and e.event_at >= c.cutoff - interval '{{ days }} day') as sessions_{{ days }}d,
        {%- endfor %}
        sum(e.amount) as spent
    from {{ ref('stg_events') }} as e
    inner join cutoffs as c on e.known_at < c.cutoff
    group by e.user_id, c.cutoff
),

-- An active day that becomes known late splits a gap, so gaps are counted anew at every cutoff.
known_days as (
    select
        d.user_id,
        c.cutoff,
        d.day,
        d.day - lag(d.day) over (partition by d.user_id, c.cutoff order by d.day) as gap
    from {{ ref('stg_active_days') }} as d
    inner join cutoffs as c on d.known_at < c.cutoff
),

-- A day lies in a window when its midnight does: so it is counted once, wherever in a day the cutoff lies.
rhythm as (
    select
        user_id,
        cutoff,
        count(*) as active_days,
        count(*) filter (day >= cutoff - interval '90 day') as days_in_last_90,
        count(*) filter (day >= cutoff - interval '180 day' and day < cutoff - interval '90 day') as days_in_90_before,
        count(gap) as gaps,
        sum(gap) as gap_sum,
        sum(gap * gap) as gap_square_sum,
        max(gap) as max_gap
    from known_days
    group by user_id, cutoff
),

-- created_at counts only once it has passed; least() passes over nulls.
population as (
    select
        u.user_id,
        c.cutoff,
        least(case when u.created_at < c.cutoff then u.created_at end, t.first_event_at) as signup_at,
        t.* exclude (user_id, cutoff),
        r.* exclude (user_id, cutoff)
    from {{ ref('stg_users') }} as u
    cross join cutoffs as c
    left join totals as t on u.user_id = t.user_id and c.cutoff = t.cutoff
    left join rhythm as r on u.user_id = r.user_id and c.cutoff = r.cutoff
),

figures as (
    select
        *,
        {{ days_between('signup_at', 'cutoff') }} as days_since_signup,
        {{ days_between('last_order_at', 'cutoff') }} as days_since_last_order,
        {{ days_between('last_activity_at', 'cutoff') }} as days_since_last_activity,
        coalesce(orders, 0)::double as total_orders,
        coalesce(spent, 0)::double as total_spent,
        nullif(known_durations, 0)::double as n_durations,
        gap_sum::double / nullif(gaps, 0) as mean_gap_days,
        sqrt((gaps * gap_square_sum - gap_sum * gap_sum)::double) / nullif(gaps, 0) as std_gap_days
    from population
    where signup_at is not null
),

ratios as (
    select
        *,
        total_spent / nullif(total_orders, 0) as avg_order_value,
        greatest(days_since_signup, 1) as tenure_days
    from figures
)

select
    user_id,
    cutoff,
    cutoff as event_timestamp,
    days_since_signup,
    total_orders,
    total_spent,
    avg_order_value,
    days_since_last_order,
    coalesce(sessions, 0)::double as total_sessions,
    duration::double / n_durations as avg_session_duration,
    days_since_last_activity,
    total_orders / tenure_days as order_frequency,
    total_spent / tenure_days as spending_velocity,
    coalesce(avg_order_value * total_orders * 1.2::double, 0) as customer_lifetime_value,
    {%- for figure in ['orders', 'spent', 'sessions'] %}
    {%- for days in windows %}
    coalesce({{ figure }}_{{ days }}d, 0)::double as {{ figure }}_{{ days }}d,
    {%- endfor %}
    {%- endfor %}
    coalesce(active_days, 0)::double as active_days,
    mean_gap_days,
    std_gap_days,
    max_gap::double as max_gap_days,
    days_since_last_activity / mean_gap_days as recency_over_mean_gap,
    days_since_last_activity / max_gap as recency_over_max_gap,
    coalesce(
        (days_in_last_90 - days_in_90_before)::double / nullif(days_in_last_90 + days_in_90_before, 0), 0
    ) as activity_trend,
    last_order_amount::double as last_order_amount,
    coalesce(refunds / nullif(orders + refunds, 0), 0)::double as refund_share,
    case
        when total_spent > 1000 then 'High Value'
        when days_since_signup < 30 then 'New'
        when days_since_last_activity is null or days_since_last_activity > 60 then 'At Risk'
        else 'Regular'
    end as user_segment
from ratios
