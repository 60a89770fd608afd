{{ config(unique_key=['user_id', 'cutoff', 'horizon_days'], pre_hook="{{ forget_cutoffs() }}") }}
{%- set horizon = "interval '" ~ var('horizon_days') ~ " day'" %}
-- Whether each user of user_analytics went silent in [cutoff, cutoff + horizon): for cutoffs whose horizon has ended.
-- Labels ask what happened, not what was known: ingested_at plays no part in `churned`.
with matured as (
    select cutoff
    from ({{ cutoffs() }})
    where cutoff + {{ horizon }} <= timestamp '{{ var("log_end") }}'
),

active as (
    select distinct
        e.user_id,
        m.cutoff
    from {{ ref('stg_events') }} as e
    inner join matured as m on e.event_at >= m.cutoff and e.event_at < m.cutoff + {{ horizon }}
    where e.kind <> 'refund'
)

select
    u.user_id,
    u.cutoff,
    {{ var('horizon_days') }}::integer as horizon_days,
    coalesce(u.days_since_last_activity <= {{ var('horizon_days') }}, false) as eligible,
    a.user_id is null as churned
from {{ ref('user_analytics') }} as u
inner join matured as m on u.cutoff = m.cutoff
left join active as a on u.user_id = a.user_id and u.cutoff = a.cutoff
