"""Feast definitions, made from THE list of features. `feast apply` runs every .py here, so nothing else lives here."""

import os
from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource
from feast.types import Float64
from feast.value_type import ValueType

from churn.domain.schema import ENTITY, FEATURE_SERVICE, FEATURE_VIEW, FEATURES, JOIN_KEY, TIMESTAMP

ID_TYPES = {"integer": ValueType.INT64, "string": ValueType.STRING}

user = Entity(
    name=ENTITY,
    join_keys=[JOIN_KEY],
    value_type=ID_TYPES[os.environ["FEAST_CHURN_USER_ID_TYPE"]],
    description="A user of the shop; behind the raw layer an opaque id",
)

user_analytics_source = FileSource(
    name="user_analytics_parquet",
    path=f"{os.environ['FEAST_CHURN_HOME']}/offline/user_analytics/*.parquet",
    timestamp_field=TIMESTAMP,
    description="Exports of the dbt model user_analytics, one file a cutoff",
)

user_analytics = FeatureView(
    name=FEATURE_VIEW,
    entities=[user],
    # Finite, so that the point-in-time join is bounded; the service applies the same age limit online.
    ttl=timedelta(days=int(os.environ["FEAST_CHURN_TTL_DAYS"])),
    schema=[Field(name=feature.name, dtype=Float64, description=feature.meaning) for feature in FEATURES],
    source=user_analytics_source,
    online=True,
)

churn_v1 = FeatureService(
    name=FEATURE_SERVICE,
    features=[user_analytics],
    description="What the model churn_prediction reads",
)
