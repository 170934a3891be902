"""Numbers and field tables of the TensorFlow Lite schema (schema version 3).

Facts of ``tensorflow/lite/schema/schema.fbs`` in the form that the bounds-checked
reader wants: names by number, and for every options table its fields as
``(slot, name, type, default)``. Data only.
"""

from __future__ import annotations

# fmt: off
OPERATORS: tuple[str, ...] = tuple(
    """
    ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE
    EMBEDDING_LOOKUP FLOOR FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D
    LOCAL_RESPONSE_NORMALIZATION LOGISTIC LSH_PROJECTION LSTM MAX_POOL_2D MUL RELU
    RELU_N1_TO_1 RELU6 RESHAPE RESIZE_BILINEAR RNN SOFTMAX SPACE_TO_DEPTH SVDF TANH
    CONCAT_EMBEDDINGS SKIP_GRAM CALL CUSTOM EMBEDDING_LOOKUP_SPARSE PAD
    UNIDIRECTIONAL_SEQUENCE_RNN GATHER BATCH_TO_SPACE_ND SPACE_TO_BATCH_ND TRANSPOSE MEAN
    SUB DIV SQUEEZE UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE BIDIRECTIONAL_SEQUENCE_RNN
    EXP TOPK_V2 SPLIT LOG_SOFTMAX DELEGATE BIDIRECTIONAL_SEQUENCE_LSTM CAST PRELU MAXIMUM
    ARG_MAX MINIMUM LESS NEG PADV2 GREATER GREATER_EQUAL LESS_EQUAL SELECT SLICE SIN
    TRANSPOSE_CONV SPARSE_TO_DENSE TILE EXPAND_DIMS EQUAL NOT_EQUAL LOG SUM SQRT RSQRT SHAPE
    POW ARG_MIN FAKE_QUANT REDUCE_PROD REDUCE_MAX PACK LOGICAL_OR ONE_HOT LOGICAL_AND
    LOGICAL_NOT UNPACK REDUCE_MIN FLOOR_DIV REDUCE_ANY SQUARE ZEROS_LIKE FILL FLOOR_MOD
    RANGE RESIZE_NEAREST_NEIGHBOR LEAKY_RELU SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V
    UNIQUE CEIL REVERSE_V2 ADD_N GATHER_ND COS WHERE RANK ELU REVERSE_SEQUENCE MATRIX_DIAG
    QUANTIZE MATRIX_SET_DIAG ROUND HARD_SWISH IF WHILE NON_MAX_SUPPRESSION_V4
    NON_MAX_SUPPRESSION_V5 SCATTER_ND SELECT_V2 DENSIFY SEGMENT_SUM BATCH_MATMUL
    PLACEHOLDER_FOR_GREATER_OP_CODES CUMSUM CALL_ONCE BROADCAST_TO RFFT2D CONV_3D IMAG REAL
    COMPLEX_ABS HASHTABLE HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_SIZE REDUCE_ALL
    CONV_3D_TRANSPOSE VAR_HANDLE READ_VARIABLE ASSIGN_VARIABLE BROADCAST_ARGS
    RANDOM_STANDARD_NORMAL BUCKETIZE RANDOM_UNIFORM MULTINOMIAL GELU DYNAMIC_UPDATE_SLICE
    RELU_0_TO_1 UNSORTED_SEGMENT_PROD UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_SUM ATAN2
    UNSORTED_SEGMENT_MIN SIGN BITCAST BITWISE_XOR RIGHT_SHIFT STABLEHLO_LOGISTIC
    STABLEHLO_ADD STABLEHLO_DIVIDE STABLEHLO_MULTIPLY STABLEHLO_MAXIMUM STABLEHLO_RESHAPE
    STABLEHLO_CLAMP STABLEHLO_CONCATENATE STABLEHLO_BROADCAST_IN_DIM STABLEHLO_CONVOLUTION
    STABLEHLO_SLICE STABLEHLO_CUSTOM_CALL STABLEHLO_REDUCE STABLEHLO_ABS STABLEHLO_AND
    STABLEHLO_COSINE STABLEHLO_EXPONENTIAL STABLEHLO_FLOOR STABLEHLO_LOG STABLEHLO_MINIMUM
    STABLEHLO_NEGATE STABLEHLO_OR STABLEHLO_POWER STABLEHLO_REMAINDER STABLEHLO_RSQRT
    STABLEHLO_SELECT STABLEHLO_SUBTRACT STABLEHLO_TANH STABLEHLO_SCATTER STABLEHLO_COMPARE
    STABLEHLO_CONVERT STABLEHLO_DYNAMIC_SLICE STABLEHLO_DYNAMIC_UPDATE_SLICE STABLEHLO_PAD
    STABLEHLO_IOTA STABLEHLO_DOT_GENERAL STABLEHLO_REDUCE_WINDOW STABLEHLO_SORT
    STABLEHLO_WHILE STABLEHLO_GATHER STABLEHLO_TRANSPOSE DILATE STABLEHLO_RNG_BIT_GENERATOR
    REDUCE_WINDOW STABLEHLO_COMPOSITE STABLEHLO_SHIFT_LEFT STABLEHLO_CBRT STABLEHLO_CASE
    """.split()
)
TENSOR_TYPES: tuple[str, ...] = tuple(
    """
    float32 float16 int32 uint8 int64 string bool int16 complex64 int8 float64 complex128
    uint64 resource variant uint32 uint16 int4 bfloat16 int2 uint4 float8_e4m3fn float8_e5m2
    """.split()
)
OPTIONS_TABLES: tuple[str, ...] = tuple(
    """
    NONE Conv2DOptions DepthwiseConv2DOptions ConcatEmbeddingsOptions LSHProjectionOptions
    Pool2DOptions SVDFOptions RNNOptions FullyConnectedOptions SoftmaxOptions
    ConcatenationOptions AddOptions L2NormOptions LocalResponseNormalizationOptions
    LSTMOptions ResizeBilinearOptions CallOptions ReshapeOptions SkipGramOptions
    SpaceToDepthOptions EmbeddingLookupSparseOptions MulOptions PadOptions GatherOptions
    BatchToSpaceNDOptions SpaceToBatchNDOptions TransposeOptions ReducerOptions SubOptions
    DivOptions SqueezeOptions SequenceRNNOptions StridedSliceOptions ExpOptions
    TopKV2Options SplitOptions LogSoftmaxOptions CastOptions DequantizeOptions
    MaximumMinimumOptions ArgMaxOptions LessOptions NegOptions PadV2Options GreaterOptions
    GreaterEqualOptions LessEqualOptions SelectOptions SliceOptions TransposeConvOptions
    SparseToDenseOptions TileOptions ExpandDimsOptions EqualOptions NotEqualOptions
    ShapeOptions PowOptions ArgMinOptions FakeQuantOptions PackOptions LogicalOrOptions
    OneHotOptions LogicalAndOptions LogicalNotOptions UnpackOptions FloorDivOptions
    SquareOptions ZerosLikeOptions FillOptions BidirectionalSequenceLSTMOptions
    BidirectionalSequenceRNNOptions UnidirectionalSequenceLSTMOptions FloorModOptions
    RangeOptions ResizeNearestNeighborOptions LeakyReluOptions SquaredDifferenceOptions
    MirrorPadOptions AbsOptions SplitVOptions UniqueOptions ReverseV2Options AddNOptions
    GatherNdOptions CosOptions WhereOptions RankOptions ReverseSequenceOptions
    MatrixDiagOptions QuantizeOptions MatrixSetDiagOptions HardSwishOptions IfOptions
    WhileOptions DepthToSpaceOptions NonMaxSuppressionV4Options NonMaxSuppressionV5Options
    ScatterNdOptions SelectV2Options DensifyOptions SegmentSumOptions BatchMatMulOptions
    CumsumOptions CallOnceOptions BroadcastToOptions Rfft2dOptions Conv3DOptions
    HashtableOptions HashtableFindOptions HashtableImportOptions HashtableSizeOptions
    VarHandleOptions ReadVariableOptions AssignVariableOptions RandomOptions
    BucketizeOptions GeluOptions DynamicUpdateSliceOptions UnsortedSegmentProdOptions
    UnsortedSegmentMaxOptions UnsortedSegmentMinOptions UnsortedSegmentSumOptions
    ATan2Options SignOptions BitcastOptions BitwiseXorOptions RightShiftOptions
    """.split()
)
OPTIONS2_TABLES: tuple[str, ...] = tuple(
    """
    NONE StablehloConcatenateOptions StablehloBroadcastInDimOptions StablehloSliceOptions
    StablehloConvolutionOptions StablehloCustomCallOptions StablehloReduceOptions
    StablehloScatterOptions StablehloCompareOptions StablehloDynamicSliceOptions
    StablehloPadOptions StablehloIotaOptions StablehloDotGeneralOptions
    StablehloReduceWindowOptions StablehloSortOptions StablehloWhileOptions
    StablehloGatherOptions StablehloTransposeOptions DilateOptions
    StablehloRngBitGeneratorOptions ReduceWindowOptions StableHLOCompositeOptions
    StablehloShiftLeftOptions StablehloCaseOptions
    """.split()
)
PADDINGS: tuple[str, ...] = tuple(
    """
    SAME VALID
    """.split()
)
ACTIVATIONS: tuple[str, ...] = tuple(
    """
    NONE RELU RELU_N1_TO_1 RELU6 TANH SIGN_BIT
    """.split()
)
Field = tuple[int, str, str, object]
OPTION_FIELDS: dict[str, tuple[Field, ...]] = {
    "AddOptions": (
        (0, "fused_activation_function", "int8", 0),
        (1, "pot_scale_int16", "bool", True),
    ),
    "ArgMaxOptions": (
        (0, "output_type", "int8", 0),
    ),
    "ArgMinOptions": (
        (0, "output_type", "int8", 0),
    ),
    "BatchMatMulOptions": (
        (0, "adj_x", "bool", False),
        (1, "adj_y", "bool", False),
        (2, "asymmetric_quantize_inputs", "bool", False),
    ),
    "BidirectionalSequenceLSTMOptions": (
        (0, "fused_activation_function", "int8", 0),
        (1, "cell_clip", "float32", 0.0),
        (2, "proj_clip", "float32", 0.0),
        (3, "merge_outputs", "bool", False),
        (4, "time_major", "bool", True),
        (5, "asymmetric_quantize_inputs", "bool", False),
    ),
    "BidirectionalSequenceRNNOptions": (
        (0, "time_major", "bool", False),
        (1, "fused_activation_function", "int8", 0),
        (2, "merge_outputs", "bool", False),
        (3, "asymmetric_quantize_inputs", "bool", False),
    ),
    "BucketizeOptions": (
        (0, "boundaries", "[float32]", None),
    ),
    "CallOnceOptions": (
        (0, "init_subgraph_index", "int32", 0),
    ),
    "CallOptions": (
        (0, "subgraph", "uint32", 0),
    ),
    "CastOptions": (
        (0, "in_data_type", "int8", 0),
        (1, "out_data_type", "int8", 0),
    ),
    "ConcatEmbeddingsOptions": (
        (0, "num_channels", "int32", 0),
        (1, "num_columns_per_channel", "[int32]", None),
        (2, "embedding_dim_per_channel", "[int32]", None),
    ),
    "ConcatenationOptions": (
        (0, "axis", "int32", 0),
        (1, "fused_activation_function", "int8", 0),
    ),
    "Conv2DOptions": (
        (0, "padding", "int8", 0),
        (1, "stride_w", "int32", 0),
        (2, "stride_h", "int32", 0),
        (3, "fused_activation_function", "int8", 0),
        (4, "dilation_w_factor", "int32", 1),
        (5, "dilation_h_factor", "int32", 1),
        (6, "quantized_bias_type", "int8", 0),
    ),
    "Conv3DOptions": (
        (0, "padding", "int8", 0),
        (1, "stride_d", "int32", 0),
        (2, "stride_w", "int32", 0),
        (3, "stride_h", "int32", 0),
        (4, "fused_activation_function", "int8", 0),
        (5, "dilation_dfactor", "int32", 1),
        (6, "dilation_w_factor", "int32", 1),
        (7, "dilation_h_factor", "int32", 1),
    ),
    "CumsumOptions": (
        (0, "exclusive", "bool", False),
        (1, "reverse", "bool", False),
    ),
    "DepthToSpaceOptions": (
        (0, "block_size", "int32", 0),
    ),
    "DepthwiseConv2DOptions": (
        (0, "padding", "int8", 0),
        (1, "stride_w", "int32", 0),
        (2, "stride_h", "int32", 0),
        (3, "depth_multiplier", "int32", 0),
        (4, "fused_activation_function", "int8", 0),
        (5, "dilation_w_factor", "int32", 1),
        (6, "dilation_h_factor", "int32", 1),
    ),
    "DivOptions": (
        (0, "fused_activation_function", "int8", 0),
    ),
    "EmbeddingLookupSparseOptions": (
        (0, "combiner", "int8", 0),
    ),
    "FakeQuantOptions": (
        (0, "min", "float32", 0.0),
        (1, "max", "float32", 0.0),
        (2, "num_bits", "int32", 0),
        (3, "narrow_range", "bool", False),
    ),
    "FullyConnectedOptions": (
        (0, "fused_activation_function", "int8", 0),
        (1, "weights_format", "int8", 0),
        (2, "keep_num_dims", "bool", False),
        (3, "asymmetric_quantize_inputs", "bool", False),
        (4, "quantized_bias_type", "int8", 0),
        (5, "quant_spec", "[uint8]", None),
    ),
    "GatherOptions": (
        (0, "axis", "int32", 0),
        (1, "batch_dims", "int32", 0),
    ),
    "GeluOptions": (
        (0, "approximate", "bool", False),
    ),
    "HashtableOptions": (
        (0, "table_id", "int32", 0),
        (1, "key_dtype", "int8", 0),
        (2, "value_dtype", "int8", 0),
    ),
    "IfOptions": (
        (0, "then_subgraph_index", "int32", 0),
        (1, "else_subgraph_index", "int32", 0),
    ),
    "L2NormOptions": (
        (0, "fused_activation_function", "int8", 0),
    ),
    "LSHProjectionOptions": (
        (0, "type", "int8", 0),
    ),
    "LSTMOptions": (
        (0, "fused_activation_function", "int8", 0),
        (1, "cell_clip", "float32", 0.0),
        (2, "proj_clip", "float32", 0.0),
        (3, "kernel_type", "int8", 0),
        (4, "asymmetric_quantize_inputs", "bool", False),
    ),
    "LeakyReluOptions": (
        (0, "alpha", "float32", 0.0),
    ),
    "LocalResponseNormalizationOptions": (
        (0, "radius", "int32", 0),
        (1, "bias", "float32", 0.0),
        (2, "alpha", "float32", 0.0),
        (3, "beta", "float32", 0.0),
    ),
    "MirrorPadOptions": (
        (0, "mode", "int8", 0),
    ),
    "MulOptions": (
        (0, "fused_activation_function", "int8", 0),
    ),
    "OneHotOptions": (
        (0, "axis", "int32", 0),
    ),
    "PackOptions": (
        (0, "values_count", "int32", 0),
        (1, "axis", "int32", 0),
    ),
    "Pool2DOptions": (
        (0, "padding", "int8", 0),
        (1, "stride_w", "int32", 0),
        (2, "stride_h", "int32", 0),
        (3, "filter_width", "int32", 0),
        (4, "filter_height", "int32", 0),
        (5, "fused_activation_function", "int8", 0),
    ),
    "RNNOptions": (
        (0, "fused_activation_function", "int8", 0),
        (1, "asymmetric_quantize_inputs", "bool", False),
    ),
    "RandomOptions": (
        (0, "seed", "int64", 0),
        (1, "seed2", "int64", 0),
    ),
    "ReduceWindowOptions": (
        (0, "reduce_function", "int32", 0),
    ),
    "ReducerOptions": (
        (0, "keep_dims", "bool", False),
    ),
    "ReshapeOptions": (
        (0, "new_shape", "[int32]", None),
    ),
    "ResizeBilinearOptions": (
        (2, "align_corners", "bool", False),
        (3, "half_pixel_centers", "bool", False),
    ),
    "ResizeNearestNeighborOptions": (
        (0, "align_corners", "bool", False),
        (1, "half_pixel_centers", "bool", False),
    ),
    "ReverseSequenceOptions": (
        (0, "seq_dim", "int32", 0),
        (1, "batch_dim", "int32", 0),
    ),
    "SVDFOptions": (
        (0, "rank", "int32", 0),
        (1, "fused_activation_function", "int8", 0),
        (2, "asymmetric_quantize_inputs", "bool", False),
    ),
    "SequenceRNNOptions": (
        (0, "time_major", "bool", False),
        (1, "fused_activation_function", "int8", 0),
        (2, "asymmetric_quantize_inputs", "bool", False),
    ),
    "ShapeOptions": (
        (0, "out_type", "int8", 0),
    ),
    "SkipGramOptions": (
        (0, "ngram_size", "int32", 0),
        (1, "max_skip_size", "int32", 0),
        (2, "include_all_ngrams", "bool", False),
    ),
    "SoftmaxOptions": (
        (0, "beta", "float32", 0.0),
    ),
    "SpaceToDepthOptions": (
        (0, "block_size", "int32", 0),
    ),
    "SparseToDenseOptions": (
        (0, "validate_indices", "bool", False),
    ),
    "SplitOptions": (
        (0, "num_splits", "int32", 0),
    ),
    "SplitVOptions": (
        (0, "num_splits", "int32", 0),
    ),
    "SqueezeOptions": (
        (0, "squeeze_dims", "[int32]", None),
    ),
    "StableHLOCompositeOptions": (
        (0, "name", "string", None),
        (1, "decomposition_subgraph_index", "int32", 0),
        (2, "composite_attributes", "[uint8]", None),
        (3, "composite_attributes_format", "int8", 0),
        (4, "version", "int32", 0),
    ),
    "StablehloBroadcastInDimOptions": (
        (0, "broadcast_dimensions", "[int64]", None),
    ),
    "StablehloCaseOptions": (
        (0, "branch_subgraph_indices", "[int32]", None),
    ),
    "StablehloCompareOptions": (
        (0, "comparison_direction", "uint32", 0),
        (1, "compare_type", "uint32", 0),
    ),
    "StablehloConcatenateOptions": (
        (0, "dimension", "int64", 0),
    ),
    "StablehloConvolutionOptions": (
        (0, "window_strides", "[int64]", None),
        (1, "padding", "[int64]", None),
        (2, "lhs_dilation", "[int64]", None),
        (3, "rhs_dilation", "[int64]", None),
        (4, "window_reversal", "[bool]", None),
        (5, "input_batch_dimension", "int64", 0),
        (6, "input_feature_dimension", "int64", 0),
        (7, "input_spatial_dimensions", "[int64]", None),
        (8, "kernel_input_feature_dimension", "int64", 0),
        (9, "kernel_output_feature_dimension", "int64", 0),
        (10, "kernel_spatial_dimensions", "[int64]", None),
        (11, "output_batch_dimension", "int64", 0),
        (12, "output_feature_dimension", "int64", 0),
        (13, "output_spatial_dimensions", "[int64]", None),
        (14, "feature_group_count", "int64", 0),
        (15, "batch_group_count", "int64", 0),
        (16, "precision_config", "[uint32]", None),
    ),
    "StablehloCustomCallOptions": (
        (0, "call_target_name", "string", None),
        (1, "has_side_effect", "bool", False),
        (2, "backend_config", "string", None),
        (3, "api_version", "int32", 0),
        (4, "called_computations", "[int32]", None),
        (5, "custom_attributes", "[uint8]", None),
    ),
    "StablehloDotGeneralOptions": (
        (0, "lhs_batching_dimensions", "[int64]", None),
        (1, "rhs_batching_dimensions", "[int64]", None),
        (2, "lhs_contracting_dimensions", "[int64]", None),
        (3, "rhs_contracting_dimensions", "[int64]", None),
        (4, "precision_config", "[uint32]", None),
    ),
    "StablehloDynamicSliceOptions": (
        (0, "slice_sizes", "[int64]", None),
    ),
    "StablehloGatherOptions": (
        (0, "offset_dims", "[int64]", None),
        (1, "collapsed_slice_dims", "[int64]", None),
        (2, "start_index_map", "[int64]", None),
        (3, "index_vector_dim", "int64", 0),
        (4, "slice_sizes", "[int64]", None),
        (5, "indices_are_sorted", "bool", False),
    ),
    "StablehloIotaOptions": (
        (0, "iota_dimension", "int64", 0),
    ),
    "StablehloPadOptions": (
        (0, "edge_padding_low", "[int64]", None),
        (1, "edge_padding_high", "[int64]", None),
        (2, "interior_padding", "[int64]", None),
    ),
    "StablehloReduceOptions": (
        (0, "dimensions", "[int64]", None),
        (1, "body_subgraph_index", "int32", 0),
    ),
    "StablehloReduceWindowOptions": (
        (0, "window_dimensions", "[int64]", None),
        (1, "window_strides", "[int64]", None),
        (2, "base_dilations", "[int64]", None),
        (3, "window_dilations", "[int64]", None),
        (4, "padding", "[int64]", None),
        (5, "body_subgraph_index", "int32", 0),
    ),
    "StablehloRngBitGeneratorOptions": (
        (0, "algorithm", "int8", 0),
    ),
    "StablehloScatterOptions": (
        (0, "indices_are_sorted", "bool", False),
        (1, "update_window_dims", "[int64]", None),
        (2, "inserted_window_dims", "[int64]", None),
        (3, "scatter_dims_to_operand_dims", "[int64]", None),
        (4, "index_vector_dim", "int64", 0),
        (5, "unique_indices", "bool", False),
        (6, "update_computation_subgraph_index", "int32", 0),
    ),
    "StablehloSliceOptions": (
        (0, "start_indices", "[int64]", None),
        (1, "limit_indices", "[int64]", None),
        (2, "strides", "[int64]", None),
    ),
    "StablehloSortOptions": (
        (0, "dimension", "int64", 0),
        (1, "is_stable", "bool", False),
        (2, "comparator_subgraph_index", "int32", 0),
    ),
    "StablehloTransposeOptions": (
        (0, "permutation", "[int64]", None),
    ),
    "StablehloWhileOptions": (
        (0, "cond_subgraph_index", "int32", 0),
        (1, "body_subgraph_index", "int32", 0),
    ),
    "StridedSliceOptions": (
        (0, "begin_mask", "int32", 0),
        (1, "end_mask", "int32", 0),
        (2, "ellipsis_mask", "int32", 0),
        (3, "new_axis_mask", "int32", 0),
        (4, "shrink_axis_mask", "int32", 0),
        (5, "offset", "bool", False),
    ),
    "SubOptions": (
        (0, "fused_activation_function", "int8", 0),
        (1, "pot_scale_int16", "bool", True),
    ),
    "TransposeConvOptions": (
        (0, "padding", "int8", 0),
        (1, "stride_w", "int32", 0),
        (2, "stride_h", "int32", 0),
        (3, "fused_activation_function", "int8", 0),
        (4, "quantized_bias_type", "int8", 0),
    ),
    "UnidirectionalSequenceLSTMOptions": (
        (0, "fused_activation_function", "int8", 0),
        (1, "cell_clip", "float32", 0.0),
        (2, "proj_clip", "float32", 0.0),
        (3, "time_major", "bool", False),
        (4, "asymmetric_quantize_inputs", "bool", False),
        (5, "diagonal_recurrent_tensors", "bool", False),
    ),
    "UniqueOptions": (
        (0, "idx_out_type", "int8", 2),
    ),
    "UnpackOptions": (
        (0, "num", "int32", 0),
        (1, "axis", "int32", 0),
    ),
    "VarHandleOptions": (
        (0, "container", "string", None),
        (1, "shared_name", "string", None),
    ),
    "WhileOptions": (
        (0, "cond_subgraph_index", "int32", 0),
        (1, "body_subgraph_index", "int32", 0),
    ),
}
# fmt: on
