//! Functions whose results are bounded. Operators account for what they collect, but not for the batch that they compute: without a
//! bound, `repeat('x', 2000000000)` for each row of a batch would take more memory than there is, which ends the process.
//!
//! A call that could become large is computed in several steps, of as many rows each as certainly fit, and refused once the result is
//! too large. What `||` and the literals of lists and structs join is bounded in the same way, so these are functions here.

use std::any::Any;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, ScalarValue, plan_err};
use datafusion::error::Result;
use datafusion::execution::SessionStateDefaults;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr, RawDictionaryExpr};
use datafusion::logical_expr::type_coercion::binary::BinaryTypeCoercer;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ExprSchemable, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, StructFieldMapping, Volatility, binary_expr,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column};
use datafusion::sql::sqlparser::ast::BinaryOperator;
use volley_common::Error;
use volley_common::ipc::size::array_bytes;

use super::growth::{CallArguments, Growth};
use crate::fault::into_datafusion;

/// The most bytes of the result for one row, and of those that are computed in one step.
const MAX_STEP_BYTES: u64 = 64 << 20;
/// The most bytes of the result for one batch.
const MAX_RESULT_BYTES: u64 = 128 << 20;
/// The most bytes of a result that depends on no row: operators may repeat it for each.
const MAX_CONSTANT_BYTES: u64 = 1 << 20;
/// The most steps for one batch of what takes long: some seconds, in which the query cannot be cancelled.
const MAX_STEPS: u64 = 2_000_000_000;

/// The most structs, lists and other types that one type has.
const MAX_TYPE_PARTS: usize = 5000;

/// The functions that replace those of the engine with the same names.
pub(super) fn functions() -> Vec<Arc<ScalarUDF>> {
    let bounded = |inner: Arc<ScalarUDF>| {
        let growth = Growth::of(inner.name())?;
        Some(Arc::new(ScalarUDF::new_from_impl(BoundedFunction { inner, growth })))
    };
    SessionStateDefaults::default_scalar_functions().into_iter().filter_map(bounded).collect()
}

/// The operator `||` of texts, which plans have as a function.
pub(super) fn text_concat() -> Arc<ScalarUDF> {
    let text = TextConcat { signature: Signature::user_defined(Volatility::Immutable) };
    Arc::new(ScalarUDF::new_from_impl(text))
}

/// The expression with the engine's own functions and operators. They give the same values.
pub(super) fn unbounded(expr: Expr) -> Result<Expr> {
    let rewritten = expr.transform_up(|node| {
        let call = match node {
            Expr::ScalarFunction(call) => call,
            other => return Ok(Transformed::no(other)),
        };
        let implementation: &dyn Any = &**call.func.inner();
        if let Some(bounded) = implementation.downcast_ref::<BoundedFunction>() {
            let inner = bounded.inner.clone();
            return Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(inner, call.args))));
        }
        let is_concat = implementation.is::<TextConcat>();
        match call.args.as_slice() {
            [left, right] if is_concat => {
                Ok(Transformed::yes(binary_expr(left.clone(), Operator::StringConcat, right.clone())))
            }
            _ => Ok(Transformed::no(Expr::ScalarFunction(call))),
        }
    })?;
    Ok(rewritten.data)
}

/// A function of the engine.
#[derive(Debug, PartialEq, Eq, Hash)]
struct BoundedFunction {
    inner: Arc<ScalarUDF>,
    growth: Growth,
}

/// It is not simplified, since that would replace it by the function without a bound.
impl ScalarUDFImpl for BoundedFunction {
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
        let data_type = self.inner.inner().return_type(arg_types)?;
        check_parts(&data_type)?;
        Ok(data_type)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let field = self.inner.inner().return_field_from_args(args)?;
        check_parts(field.data_type())?;
        Ok(field)
    }

    fn struct_field_mapping(&self, literal_args: &[Option<ScalarValue>]) -> Option<StructFieldMapping> {
        self.inner.inner().struct_field_mapping(literal_args)
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.inner().coerce_types(arg_types)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        invoke_bounded(self.inner.name(), self.growth, args, |args| self.inner.inner().invoke_with_args(args))
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.inner().documentation()
    }
}

/// The operator `||` of texts.
#[derive(Debug, PartialEq, Eq, Hash)]
struct TextConcat {
    signature: Signature,
}

impl ScalarUDFImpl for TextConcat {
    fn name(&self) -> &str {
        "||"
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args.iter().map(|arg| arg.schema_name().to_string()).collect::<Vec<_>>().join(" || "))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        let (left, right) = two(arg_types)?;
        BinaryTypeCoercer::new(left, &Operator::StringConcat, right).get_result_type()
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let types: Vec<DataType> = args.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name(), self.return_type(&types)?, nullable)))
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let (left, right) = two(arg_types)?;
        let (left, right) = BinaryTypeCoercer::new(left, &Operator::StringConcat, right).get_input_types()?;
        Ok(vec![left, right])
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        invoke_bounded(self.name(), Growth::Concat, args, |args| {
            let is_constant = is_constant(&args.args);
            let rows = if is_constant { 1 } else { args.number_rows };
            let columns = args.args.iter().map(|arg| arg.to_array(rows)).collect::<Result<Vec<ArrayRef>>>()?;
            let joined = joined(columns)?;
            match is_constant {
                true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&joined, 0)?)),
                false => Ok(ColumnarValue::Array(joined)),
            }
        })
    }
}

/// As the engine's own operator joins two columns.
fn joined(columns: Vec<ArrayRef>) -> Result<ArrayRef> {
    let rows = columns.first().map_or(0, |column| column.len());
    let fields = columns.iter().map(|column| Field::new("", column.data_type().clone(), true));
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields.collect::<Vec<_>>())), columns)?;
    let column = |at| Arc::new(Column::new("", at)) as Arc<dyn PhysicalExpr>;
    BinaryExpr::new(column(0), Operator::StringConcat, column(1)).evaluate(&batch)?.into_array(rows)
}

fn two(types: &[DataType]) -> Result<(&DataType, &DataType)> {
    match types {
        [left, right] => Ok((left, right)),
        _ => plan_err!("|| joins two values, and {} are given", types.len()),
    }
}

/// Plans operators and literals by functions with a bound.
#[derive(Debug)]
pub(super) struct BoundedPlanner {
    text: Arc<ScalarUDF>,
    functions: Vec<Arc<ScalarUDF>>,
}

impl BoundedPlanner {
    pub(super) fn new(functions: &[Arc<ScalarUDF>]) -> Self {
        BoundedPlanner { text: text_concat(), functions: functions.to_vec() }
    }

    /// A call of the function of this name, or the arguments if there is none.
    fn call(&self, name: &str, args: Vec<Expr>) -> PlannerResult<Vec<Expr>> {
        match self.functions.iter().find(|function| function.name() == name) {
            Some(function) => PlannerResult::Planned(function.call(args)),
            None => PlannerResult::Original(args),
        }
    }
}

impl ExprPlanner for BoundedPlanner {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        // The type of a parameter is that of the other side, which the engine finds for an operator only.
        let is_parameter = |side: &Expr| matches!(side, Expr::Placeholder(_));
        if expr.op != BinaryOperator::StringConcat || is_parameter(&expr.left) || is_parameter(&expr.right) {
            return Ok(PlannerResult::Original(expr));
        }
        let RawBinaryExpr { op, left, right } = expr;
        let (left_depth, right_depth) = (list_depth(&left.get_type(schema)?), list_depth(&right.get_type(schema)?));
        if left_depth + right_depth == 0 {
            return Ok(PlannerResult::Planned(self.text.call(vec![left, right])));
        }
        if left_depth != right_depth {
            // One element more.
            return Ok(PlannerResult::Original(RawBinaryExpr { op, left, right }));
        }
        match self.call("array_concat", vec![left, right]) {
            PlannerResult::Planned(call) => Ok(PlannerResult::Planned(call)),
            PlannerResult::Original(_) => plan_err!("there is no function array_concat"),
        }
    }

    fn plan_array_literal(&self, exprs: Vec<Expr>, _schema: &DFSchema) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(self.call("make_array", exprs))
    }

    fn plan_dictionary_literal(
        &self,
        expr: RawDictionaryExpr,
        _schema: &DFSchema,
    ) -> Result<PlannerResult<RawDictionaryExpr>> {
        let fields = expr.keys.into_iter().zip(expr.values).flat_map(|(key, value)| [key, value]).collect();
        match self.call("named_struct", fields) {
            PlannerResult::Planned(call) => Ok(PlannerResult::Planned(call)),
            PlannerResult::Original(_) => plan_err!("there is no function named_struct"),
        }
    }

    fn plan_make_map(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        if !args.len().is_multiple_of(2) {
            return Ok(PlannerResult::Original(args));
        }
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        let mut args = args.into_iter();
        while let (Some(key), Some(value)) = (args.next(), args.next()) {
            keys.push(key);
            values.push(value);
        }
        match (self.call("make_array", keys), self.call("make_array", values)) {
            (PlannerResult::Planned(keys), PlannerResult::Planned(values)) => Ok(self.call("map", vec![keys, values])),
            _ => plan_err!("there is no function make_array"),
        }
    }

    fn plan_struct_literal(&self, args: Vec<Expr>, is_named_struct: bool) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(self.call(if is_named_struct { "named_struct" } else { "struct" }, args))
    }
}

fn list_depth(data_type: &DataType) -> usize {
    match data_type {
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            1 + list_depth(field.data_type())
        }
        _ => 0,
    }
}

/// A type that doubles in each of a few dozen queries of WITH would have more parts than can be visited.
fn check_parts(data_type: &DataType) -> Result<()> {
    let (mut pending, mut parts) = (vec![data_type], 0);
    while let Some(next) = pending.pop() {
        parts += 1;
        if parts > MAX_TYPE_PARTS {
            return Err(refusal(format!("a type has more than {MAX_TYPE_PARTS} parts: nest fewer structs and lists")));
        }
        match next {
            DataType::Struct(fields) => pending.extend(fields.iter().map(|field| field.data_type())),
            DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
                pending.push(field.data_type());
            }
            DataType::Map(field, _) => pending.push(field.data_type()),
            _ => {}
        }
    }
    Ok(())
}

/// Calls a function, in steps whose results fit into memory.
///
/// # Errors
/// INVALID_ARGUMENT: the result is too large, or takes too long. Those of the function.
fn invoke_bounded(
    name: &str,
    growth: Growth,
    args: ScalarFunctionArgs,
    invoke: impl Fn(ScalarFunctionArgs) -> Result<ColumnarValue>,
) -> Result<ColumnarValue> {
    let is_constant = is_constant(&args.args);
    let rows = if is_constant { 1 } else { args.number_rows };
    let costs = growth.costs(&CallArguments { args: &args.args, rows })?;
    let total = costs.iter().fold(0u64, |sum, cost| sum.saturating_add(*cost));
    if growth == Growth::Distance {
        return match total > MAX_STEPS {
            true => Err(refusal(format!("{name} would take too long for texts of this length: compare shorter ones"))),
            false => invoke(args),
        };
    }
    if costs.iter().any(|cost| *cost > MAX_STEP_BYTES) {
        return Err(too_large(name));
    }
    if is_constant || total <= MAX_STEP_BYTES {
        let value = invoke(args)?;
        if is_constant && array_bytes(value.to_array(1)?.as_ref()) as u64 > MAX_CONSTANT_BYTES {
            return Err(too_large(name));
        }
        return Ok(value);
    }
    let (mut start, mut bytes, mut pieces) = (0, 0, Vec::new());
    while start < rows {
        let length = step_length(&costs[start..]);
        let piece = invoke(rows_of(&args, start, length))?.into_array(length)?;
        bytes += array_bytes(piece.as_ref()) as u64;
        if bytes > MAX_RESULT_BYTES {
            return Err(too_large(name));
        }
        pieces.push(piece);
        start += length;
    }
    let pieces: Vec<&dyn Array> = pieces.iter().map(|piece| piece.as_ref()).collect();
    Ok(ColumnarValue::Array(concat(&pieces)?))
}

fn is_constant(args: &[ColumnarValue]) -> bool {
    args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)))
}

/// How many rows fit into one step; at least one.
fn step_length(costs: &[u64]) -> usize {
    let mut sum = 0u64;
    let fits = costs.iter().take_while(|cost| {
        sum = sum.saturating_add(**cost);
        sum <= MAX_STEP_BYTES
    });
    fits.count().max(1)
}

/// The arguments for some rows.
fn rows_of(args: &ScalarFunctionArgs, start: usize, length: usize) -> ScalarFunctionArgs {
    let slice = |arg: &ColumnarValue| match arg {
        ColumnarValue::Array(array) => ColumnarValue::Array(array.slice(start, length)),
        scalar => scalar.clone(),
    };
    ScalarFunctionArgs {
        args: args.args.iter().map(slice).collect(),
        arg_fields: args.arg_fields.clone(),
        number_rows: length,
        return_field: args.return_field.clone(),
        config_options: args.config_options.clone(),
    }
}

fn too_large(name: &str) -> datafusion::error::DataFusionError {
    refusal(format!(
        "the result of {name} is too large: it may have {} MiB for one row, {} MiB for a batch of rows, and {} MiB if it is the same for all rows",
        MAX_STEP_BYTES >> 20,
        MAX_RESULT_BYTES >> 20,
        MAX_CONSTANT_BYTES >> 20
    ))
}

fn refusal(text: String) -> datafusion::error::DataFusionError {
    into_datafusion(Error::invalid(text))
}
