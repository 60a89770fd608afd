{{ config(materialized='table') }}
-- One row per event. An event is known at a cutoff iff known_at < cutoff: it had happened, and been written, before.
-- greatest() passes over nulls, so an event without ingested_at is known when it happens.
with events as (
    select
        user_id,
        case when order_amount < 0 then 'refund' else 'order' end as kind,
        order_date as event_at,
        greatest(order_date, ingested_at) as known_at,
        coalesce(order_amount, 0) as amount, -- an unknown amount is no money
        null::decimal(18, 4) as duration,
        order_id as event_id
    from {{ ref('stg_orders') }}
    union all
    select
        user_id,
        'session' as kind,
        session_start as event_at,
        greatest(session_start, ingested_at) as known_at,
        null as amount,
        session_duration_minutes as duration,
        session_id as event_id
    from {{ ref('stg_sessions') }}
)

select
    user_id,
    kind,
    event_at,
    known_at,
    amount,
    duration,
    row_number() over (partition by user_id order by event_at, event_id) as position
from events
