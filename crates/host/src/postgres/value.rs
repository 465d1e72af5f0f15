//! Values between the interface and PostgreSQL's binary format. As in Spin, a parameter has to be of
//! the type the statement takes there: an `int64` where it takes `INT4` is refused, not converted.

use std::error::Error as StdError;

use bytes::{BufMut, BytesMut};
use postgres_protocol::types::{
    self as protocol, Range as ProtocolRange, RangeBound as ProtocolBound,
};
use rust_decimal::Decimal;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type};
use uuid::Uuid;

use crate::bindings::imports::spin::postgres::postgres::{
    DbDataType, DbValue, Interval, ParameterValue, RangeBoundKind,
};

type Refused = Box<dyn StdError + Sync + Send>;
type Bound<T> = Option<(T, RangeBoundKind)>;

/// What a column holds.
pub(super) fn data_type(of: &Type) -> DbDataType {
    match *of {
        Type::BOOL => DbDataType::Boolean,
        Type::BYTEA => DbDataType::Binary,
        Type::FLOAT4 => DbDataType::Floating32,
        Type::FLOAT8 => DbDataType::Floating64,
        Type::INT2 => DbDataType::Int16,
        Type::INT4 => DbDataType::Int32,
        Type::INT8 => DbDataType::Int64,
        Type::TEXT | Type::VARCHAR | Type::BPCHAR => DbDataType::Str,
        Type::TIMESTAMP | Type::TIMESTAMPTZ => DbDataType::Datetime,
        Type::DATE => DbDataType::Date,
        Type::TIME => DbDataType::Time,
        Type::UUID => DbDataType::Uuid,
        Type::JSONB => DbDataType::Jsonb,
        Type::NUMERIC => DbDataType::Decimal,
        Type::INT4_RANGE => DbDataType::RangeInt32,
        Type::INT8_RANGE => DbDataType::RangeInt64,
        Type::NUM_RANGE => DbDataType::RangeDecimal,
        Type::INT4_ARRAY => DbDataType::ArrayInt32,
        Type::INT8_ARRAY => DbDataType::ArrayInt64,
        Type::NUMERIC_ARRAY => DbDataType::ArrayDecimal,
        Type::TEXT_ARRAY | Type::VARCHAR_ARRAY | Type::BPCHAR_ARRAY => DbDataType::ArrayStr,
        Type::INTERVAL => DbDataType::Interval,
        _ => DbDataType::Other(of.name().to_owned()),
    }
}

/// A column's value on its way to the guest.
pub(super) struct Cell(pub(super) DbValue);

impl<'a> FromSql<'a> for Cell {
    fn from_sql(of: &Type, raw: &'a [u8]) -> Result<Self, Refused> {
        Ok(Cell(match *of {
            Type::BOOL => DbValue::Boolean(protocol::bool_from_sql(raw)?),
            Type::BYTEA => DbValue::Binary(raw.to_vec()),
            Type::FLOAT4 => DbValue::Floating32(protocol::float4_from_sql(raw)?),
            Type::FLOAT8 => DbValue::Floating64(protocol::float8_from_sql(raw)?),
            Type::INT2 => DbValue::Int16(protocol::int2_from_sql(raw)?),
            Type::INT4 => DbValue::Int32(protocol::int4_from_sql(raw)?),
            Type::INT8 => DbValue::Int64(protocol::int8_from_sql(raw)?),
            Type::TEXT | Type::VARCHAR | Type::BPCHAR => {
                DbValue::Str(protocol::text_from_sql(raw)?.to_owned())
            }
            Type::TIMESTAMP => {
                DbValue::Datetime(datetime(jiff::civil::DateTime::from_sql(of, raw)?)?)
            }
            Type::TIMESTAMPTZ => {
                let at = jiff::Timestamp::from_sql(of, raw)?;
                DbValue::Datetime(datetime(jiff::tz::Offset::UTC.to_datetime(at))?)
            }
            Type::DATE => {
                let date = jiff::civil::Date::from_sql(of, raw)?;
                let (month, day) = (date.month().try_into()?, date.day().try_into()?);
                DbValue::Date((date.year().into(), month, day))
            }
            Type::TIME => {
                let time = jiff::civil::Time::from_sql(of, raw)?;
                DbValue::Time((
                    time.hour().try_into()?,
                    time.minute().try_into()?,
                    time.second().try_into()?,
                    time.subsec_nanosecond().try_into()?,
                ))
            }
            Type::UUID => DbValue::Uuid(Uuid::from_sql(of, raw)?.to_string()),
            // One byte of version before the text.
            Type::JSONB => match raw {
                [1, text @ ..] => DbValue::Jsonb(text.to_vec()),
                _ => return Err("a version of JSONB this host does not know".into()),
            },
            Type::NUMERIC => DbValue::Decimal(Decimal::from_sql(of, raw)?.to_string()),
            Type::INT4_RANGE => DbValue::RangeInt32(range(raw, protocol::int4_from_sql)?),
            Type::INT8_RANGE => DbValue::RangeInt64(range(raw, protocol::int8_from_sql)?),
            Type::NUM_RANGE => DbValue::RangeDecimal(range(raw, |raw| {
                Decimal::from_sql(&Type::NUMERIC, raw).map(|d| d.to_string())
            })?),
            Type::INT4_ARRAY => DbValue::ArrayInt32(Vec::from_sql(of, raw)?),
            Type::INT8_ARRAY => DbValue::ArrayInt64(Vec::from_sql(of, raw)?),
            Type::NUMERIC_ARRAY => {
                let decimals = Vec::<Option<Decimal>>::from_sql(of, raw)?;
                let texts = decimals.into_iter().map(|d| d.map(|d| d.to_string()));
                DbValue::ArrayDecimal(texts.collect())
            }
            Type::TEXT_ARRAY | Type::VARCHAR_ARRAY | Type::BPCHAR_ARRAY => {
                DbValue::ArrayStr(Vec::from_sql(of, raw)?)
            }
            Type::INTERVAL => DbValue::Interval(interval(raw)?),
            _ => DbValue::Unsupported(raw.to_vec()),
        }))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Refused> {
        Ok(Cell(DbValue::DbNull))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

type Datetime = (i32, u8, u8, u8, u8, u8, u32);

fn datetime(at: jiff::civil::DateTime) -> Result<Datetime, Refused> {
    Ok((
        at.year().into(),
        at.month().try_into()?,
        at.day().try_into()?,
        at.hour().try_into()?,
        at.minute().try_into()?,
        at.second().try_into()?,
        at.subsec_nanosecond().try_into()?,
    ))
}

fn range<T>(
    raw: &[u8],
    read: impl Fn(&[u8]) -> Result<T, Refused>,
) -> Result<(Bound<T>, Bound<T>), Refused> {
    let bound = |bound: ProtocolBound<Option<&[u8]>>| {
        let (raw, kind) = match bound {
            ProtocolBound::Inclusive(Some(raw)) => (raw, RangeBoundKind::Inclusive),
            ProtocolBound::Exclusive(Some(raw)) => (raw, RangeBoundKind::Exclusive),
            _ => return Ok(None),
        };
        read(raw).map(|value| Some((value, kind)))
    };
    match protocol::range_from_sql(raw)? {
        // The interface has no word for it; two equal exclusive bounds would mean the same and have
        // no value to name.
        ProtocolRange::Empty => Err("an empty range, which the interface cannot express".into()),
        ProtocolRange::Nonempty(lower, upper) => Ok((bound(lower)?, bound(upper)?)),
    }
}

fn interval(raw: &[u8]) -> Result<Interval, Refused> {
    let (micros, rest) = raw.split_first_chunk().ok_or("an interval cut short")?;
    let (days, rest) = rest.split_first_chunk().ok_or("an interval cut short")?;
    let months = rest.try_into().map_err(|_| "an interval cut short")?;
    Ok(Interval {
        micros: i64::from_be_bytes(*micros),
        days: i32::from_be_bytes(*days),
        months: i32::from_be_bytes(months),
    })
}

/// A parameter on its way to the server.
#[derive(Debug)]
pub(super) struct Parameter(pub(super) ParameterValue);

/// Writes `value` where the statement takes its type.
fn put<T: ToSql>(value: T, of: &Type, out: &mut BytesMut) -> Result<IsNull, Refused> {
    match T::accepts(of) {
        true => value.to_sql(of, out),
        false => Err(format!("the statement takes {} there", of.name()).into()),
    }
}

impl ToSql for Parameter {
    fn to_sql(&self, of: &Type, out: &mut BytesMut) -> Result<IsNull, Refused> {
        let not = |expected: &[Type]| match expected.contains(of) {
            true => Ok(()),
            false => Err(format!("the statement takes {} there", of.name())),
        };
        match &self.0 {
            ParameterValue::Boolean(v) => put(v, of, out),
            ParameterValue::Int8(v) => put(v, of, out),
            ParameterValue::Int16(v) => put(v, of, out),
            ParameterValue::Int32(v) => put(v, of, out),
            ParameterValue::Int64(v) => put(v, of, out),
            ParameterValue::Floating32(v) => put(v, of, out),
            ParameterValue::Floating64(v) => put(v, of, out),
            ParameterValue::Str(v) => put(v.as_str(), of, out),
            ParameterValue::Binary(v) => put(v.as_slice(), of, out),
            ParameterValue::Date((y, m, d)) => put(date(*y, *m, *d)?, of, out),
            ParameterValue::Time((h, m, s, ns)) => put(time(*h, *m, *s, *ns)?, of, out),
            ParameterValue::Datetime((y, mo, d, h, mi, s, ns)) => {
                let at = date(*y, *mo, *d)?.to_datetime(time(*h, *mi, *s, *ns)?);
                put(at, of, out)
            }
            ParameterValue::Timestamp(seconds) => {
                put(jiff::Timestamp::from_second(*seconds)?, of, out)
            }
            ParameterValue::Uuid(v) => put(v.parse::<Uuid>()?, of, out),
            ParameterValue::Jsonb(v) => {
                not(&[Type::JSONB])?;
                serde_json::from_slice::<serde::de::IgnoredAny>(v)?;
                out.put_u8(1);
                out.put_slice(v);
                Ok(IsNull::No)
            }
            ParameterValue::Decimal(v) => put(Decimal::from_str_exact(v)?, of, out),
            ParameterValue::RangeInt32((lower, upper)) => {
                not(&[Type::INT4_RANGE])?;
                put_range(lower, upper, out, |v, out| {
                    protocol::int4_to_sql(*v, out);
                    Ok(())
                })
            }
            ParameterValue::RangeInt64((lower, upper)) => {
                not(&[Type::INT8_RANGE])?;
                put_range(lower, upper, out, |v, out| {
                    protocol::int8_to_sql(*v, out);
                    Ok(())
                })
            }
            ParameterValue::RangeDecimal((lower, upper)) => {
                not(&[Type::NUM_RANGE])?;
                put_range(lower, upper, out, |v, out| {
                    put(Decimal::from_str_exact(v)?, &Type::NUMERIC, out).map(drop)
                })
            }
            ParameterValue::ArrayInt32(v) => put(v, of, out),
            ParameterValue::ArrayInt64(v) => put(v, of, out),
            ParameterValue::ArrayDecimal(v) => {
                let decimals = v
                    .iter()
                    .map(|v| v.as_deref().map(Decimal::from_str_exact).transpose());
                put(decimals.collect::<Result<Vec<_>, _>>()?, of, out)
            }
            ParameterValue::ArrayStr(v) => put(v, of, out),
            ParameterValue::Interval(v) => {
                not(&[Type::INTERVAL])?;
                out.put_i64(v.micros);
                out.put_i32(v.days);
                out.put_i32(v.months);
                Ok(IsNull::No)
            }
            ParameterValue::DbNull => Ok(IsNull::Yes),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn to_sql_checked(&self, of: &Type, out: &mut BytesMut) -> Result<IsNull, Refused> {
        self.to_sql(of, out)
    }
}

fn date(year: i32, month: u8, day: u8) -> Result<jiff::civil::Date, Refused> {
    let (year, month, day) = (year.try_into()?, month.try_into()?, day.try_into()?);
    Ok(jiff::civil::Date::new(year, month, day)?)
}

fn time(hour: u8, minute: u8, second: u8, nanosecond: u32) -> Result<jiff::civil::Time, Refused> {
    Ok(jiff::civil::Time::new(
        hour.try_into()?,
        minute.try_into()?,
        second.try_into()?,
        nanosecond.try_into()?,
    )?)
}

fn put_range<T>(
    lower: &Bound<T>,
    upper: &Bound<T>,
    out: &mut BytesMut,
    write: impl Fn(&T, &mut BytesMut) -> Result<(), Refused>,
) -> Result<IsNull, Refused> {
    let bound = |bound: &Bound<T>, out: &mut BytesMut| match bound {
        None => Ok(ProtocolBound::Unbounded),
        Some((value, kind)) => {
            write(value, out)?;
            Ok(match kind {
                RangeBoundKind::Inclusive => ProtocolBound::Inclusive(protocol_not_null()),
                RangeBoundKind::Exclusive => ProtocolBound::Exclusive(protocol_not_null()),
            })
        }
    };
    protocol::range_to_sql(|out| bound(lower, out), |out| bound(upper, out), out)?;
    Ok(IsNull::No)
}

fn protocol_not_null() -> postgres_protocol::IsNull {
    postgres_protocol::IsNull::No
}

/// Bytes of host memory a value holds, about.
pub(super) fn size(value: &DbValue) -> usize {
    let held = match value {
        DbValue::Str(text) | DbValue::Uuid(text) | DbValue::Decimal(text) => text.len(),
        DbValue::Binary(bytes) | DbValue::Jsonb(bytes) | DbValue::Unsupported(bytes) => bytes.len(),
        DbValue::ArrayInt32(values) => values.len() * size_of::<Option<i32>>(),
        DbValue::ArrayInt64(values) => values.len() * size_of::<Option<i64>>(),
        DbValue::ArrayStr(values) | DbValue::ArrayDecimal(values) => values
            .iter()
            .map(|v| size_of::<Option<String>>() + v.as_ref().map_or(0, String::len))
            .sum(),
        _ => 0,
    };
    size_of::<DbValue>() + held
}
