// A stand-in for tests: see README.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

enum TfLiteType {
  kTfLiteFloat32 = 1,
  kTfLiteInt32 = 2,
  kTfLiteUInt8 = 3,
  kTfLiteInt64 = 4,
  kTfLiteBool = 6,
  kTfLiteInt16 = 7,
  kTfLiteInt8 = 9,
};

struct TfLiteTensor {
  union {
    void* data;
    std::int8_t* int8;
  } data;
  std::size_t bytes;
  TfLiteType type;
};

#ifndef STUB_INPUT_BYTES
#define STUB_INPUT_BYTES 0
#define STUB_OUTPUT_BYTES 0
#endif

namespace tflite {

struct Model;

class MicroInterpreter {
 public:
  MicroInterpreter(const Model*, const MicroOpResolver&, std::uint8_t* arena, std::size_t size)
      : arena_(arena), size_(size) {}

  TfLiteStatus AllocateTensors() {
    if (STUB_INPUT_BYTES + STUB_OUTPUT_BYTES > size_ ||
        reinterpret_cast<std::uintptr_t>(arena_) % 16 != 0) {
      return kTfLiteError;
    }
    input_.data.data = arena_;
    input_.bytes = STUB_INPUT_BYTES;
    input_.type = kTfLiteInt8;
    output_.data.data = arena_ + STUB_INPUT_BYTES;
    output_.bytes = STUB_OUTPUT_BYTES;
    output_.type = kTfLiteInt8;
    return kTfLiteOk;
  }

  TfLiteStatus Invoke() {
    for (std::size_t i = 0; i < output_.bytes; ++i) {
      output_.data.int8[i] = static_cast<std::int8_t>(input_.data.int8[i % input_.bytes] + 1);
    }
    return kTfLiteOk;
  }

  TfLiteTensor* input(std::size_t) { return &input_; }
  TfLiteTensor* output(std::size_t) { return &output_; }
  std::size_t arena_used_bytes() const { return input_.bytes + output_.bytes; }

 private:
  std::uint8_t* arena_;
  std::size_t size_;
  TfLiteTensor input_ = {};
  TfLiteTensor output_ = {};
};

}  // namespace tflite
