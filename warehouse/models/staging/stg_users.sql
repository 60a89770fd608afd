-- email, updated_at, last_login_at and subscription_tier stop here: the first is personal, and the others are
-- overwritten in place, so that at a past cutoff they would tell the future.
select
    cast(user_id as {{ var('user_id_type') }}) as user_id,
    cast(created_at as timestamp) as created_at
from {{ source('raw', 'users') }}
qualify row_number() over (partition by user_id order by created_at nulls last) = 1
