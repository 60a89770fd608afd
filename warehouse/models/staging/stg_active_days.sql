{{ config(materialized='table') }}
-- The days on which a user ordered or had a session; a day is known once the first of its events is.
select
    user_id,
    event_at::date as day,
    min(known_at) as known_at
from {{ ref('stg_events') }}
where kind <> 'refund'
group by user_id, day
