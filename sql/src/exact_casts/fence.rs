//! A function that gives its argument. Rules that look for casts do not look into functions.

use std::any::Any;
use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::plan_err;
use datafusion::error::Result;
use datafusion::logical_expr::sort_properties::ExprProperties;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

static FENCE: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
    let signature = Signature::any(1, Volatility::Immutable);
    Arc::new(ScalarUDF::new_from_impl(OptimizationFence { signature }))
});

/// The function. Sessions that receive plans of others must have it.
pub(crate) fn fence() -> Arc<ScalarUDF> {
    Arc::clone(&FENCE)
}

pub(super) fn is_fence(function: &ScalarUDF) -> bool {
    let implementation: &dyn Any = &**function.inner();
    implementation.is::<OptimizationFence>()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct OptimizationFence {
    signature: Signature,
}

impl ScalarUDFImpl for OptimizationFence {
    fn name(&self) -> &str {
        "optimization_fence"
    }

    /// A cast has the name of what it casts, and rules that project both beside each other tell them apart by an alias for casts
    /// alone. So this name has the type of the cast.
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let args: Vec<String> = args.iter().map(Expr::to_string).collect();
        Ok(format!("{}({})", self.name(), args.join(", ")))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        match arg_types {
            [only] => Ok(only.clone()),
            _ => plan_err!("{} has one argument", self.name()),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        match args.arg_fields {
            [only] => Ok(Arc::clone(only)),
            _ => plan_err!("{} has one argument", self.name()),
        }
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.pop() {
            Some(value) => Ok(value),
            None => plan_err!("{} has one argument", self.name()),
        }
    }

    fn preserves_lex_ordering(&self, _inputs: &[ExprProperties]) -> Result<bool> {
        Ok(true)
    }
}
