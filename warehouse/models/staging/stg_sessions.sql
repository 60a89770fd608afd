-- Of several rows with one session_id the earliest known counts: a correction written later must not change the past.
select
    cast(session_id as varchar) as session_id,
    cast(user_id as {{ var('user_id_type') }}) as user_id,
    cast(session_start as timestamp) as session_start,
    cast(session_duration_minutes as decimal(18, 4)) as session_duration_minutes,
    cast(ingested_at as timestamp) as ingested_at
from {{ source('raw', 'user_sessions') }}
qualify row_number() over (
    partition by session_id
    order by greatest(session_start, ingested_at), session_start, user_id, session_duration_minutes nulls last
) = 1
