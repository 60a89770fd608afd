{# Rows whose value is no number or lies outside [low, high]; either bound may be left out, and null passes. #}
{% test within(model, column_name, low=none, high=none) %}
select {{ column_name }}
from {{ model }}
where not isfinite({{ column_name }})
    {% if low is not none %}or {{ column_name }} < {{ low }}{% endif %}
    {% if high is not none %}or {{ column_name }} > {{ high }}{% endif %}
{% endtest %}
