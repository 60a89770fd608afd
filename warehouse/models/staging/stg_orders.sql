-- Of several rows with one order_id the earliest known counts: a correction written later must not change the past.
select
    cast(order_id as varchar) as order_id,
    cast(user_id as {{ var('user_id_type') }}) as user_id,
    cast(order_amount as decimal(18, 4)) as order_amount,
    cast(order_date as timestamp) as order_date,
    cast(ingested_at as timestamp) as ingested_at
from {{ source('raw', 'orders') }}
qualify row_number() over (
    partition by order_id
    order by greatest(order_date, ingested_at), order_date, user_id, order_amount nulls last
) = 1
