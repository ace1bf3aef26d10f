//! `date_part('year', t) < 9999`, which DataFusion makes a comparison of `t` with the beginnings of two years. Those that are no
//! timestamps in nanoseconds become null, and the comparison is true for no row. So do those that the zone of `t` skips: in
//! `America/Caracas` the year 1965 began at half past midnight.

use std::any::Any;
use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef, TimeUnit};
use datafusion::common::DFSchema;
use datafusion::error::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::preimage::PreimageResult;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ExprSchemable, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature,
};

/// The function with a check of these bounds, for a call that needs it and does not have it.
pub(super) fn checked(call: &ScalarFunction, schema: &DFSchema) -> Option<Arc<ScalarUDF>> {
    let [_, time] = call.args.as_slice() else { return None };
    if call.func.name() != "date_part" || implementation(&call.func).is_some() {
        return None;
    }
    let timestamp = time.get_type(schema);
    matches!(timestamp, Ok(DataType::Timestamp(TimeUnit::Nanosecond, _) | DataType::Timestamp(_, Some(_))))
        .then(|| Arc::new(ScalarUDF::new_from_impl(CheckedDatePart { inner: Arc::clone(&call.func) })))
}

/// The function without the check.
pub(super) fn unchecked(function: &ScalarUDF) -> Option<Arc<ScalarUDF>> {
    implementation(function).map(|checked| Arc::clone(&checked.inner))
}

fn implementation(function: &ScalarUDF) -> Option<&CheckedDatePart> {
    let implementation: &dyn Any = &**function.inner();
    implementation.downcast_ref()
}

/// It has the name of the function: plans that are sent to others mean that one, and these do not simplify it any more.
#[derive(Debug, PartialEq, Eq, Hash)]
struct CheckedDatePart {
    inner: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for CheckedDatePart {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.inner.inner().schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner.inner().return_type(arg_types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.inner.inner().return_field_from_args(args)
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.inner().coerce_types(arg_types)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.inner.inner().invoke_with_args(args)
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        self.inner.inner().simplify(args, info)
    }

    fn preimage(&self, args: &[Expr], lit_expr: &Expr, info: &SimplifyContext) -> Result<PreimageResult> {
        let found = self.inner.inner().preimage(args, lit_expr, info)?;
        match &found {
            PreimageResult::Range { interval, .. } if interval.lower().is_null() || interval.upper().is_null() => {
                Ok(PreimageResult::None)
            }
            _ => Ok(found),
        }
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.inner().documentation()
    }
}
