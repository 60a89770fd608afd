{# The cutoffs of this run, as rows of (cutoff). -#}
{% macro cutoffs() -%}
    select unnest([{% for cutoff in var('cutoffs') %}'{{ cutoff }}'{{ ', ' if not loop.last }}{% endfor %}]::timestamp[]) as cutoff
{%- endmacro %}

{# Empties an incremental model's rows of this run's cutoffs: rows that no longer exist must vanish too. -#}
{% macro forget_cutoffs() -%}
    {% if is_incremental() %}delete from {{ this }} where cutoff in ({{ cutoffs() }}){% endif %}
{%- endmacro %}

{# Days between two instants, fractions included: exact microseconds, then one division. -#}
{% macro days_between(earlier, later) -%}
    ((epoch_us({{ later }}) - epoch_us({{ earlier }})) / 86400e6::double)
{%- endmacro %}

{# Lets a test's `where` say __cutoffs__: the marts are tested where this run wrote, not over all their history. -#}
{% macro get_where_subquery(relation) -%}
    {% set where = config.get('where') %}
    {% if where %}(select * from {{ relation }} where {{ where | replace('__cutoffs__', cutoffs()) }}) as tested
    {% else %}{{ relation }}{% endif %}
{%- endmacro %}
