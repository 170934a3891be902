// A stand-in for tests: see README.md.
#pragma once

enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 };

struct TFLMRegistration {};

namespace tflite {

inline TFLMRegistration Register_CONV_2D_INT8() { return {}; }
inline TFLMRegistration Register_DEPTHWISE_CONV_2D_INT8() { return {}; }
inline TFLMRegistration Register_FULLY_CONNECTED_INT8() { return {}; }

struct MicroOpResolver {};

template <unsigned int tOpCount>
class MicroMutableOpResolver : public MicroOpResolver {
 public:
  TfLiteStatus AddAdd() { return add(); }
  TfLiteStatus AddAveragePool2D() { return add(); }
  TfLiteStatus AddConv2D(const TFLMRegistration& = {}) { return add(); }
  TfLiteStatus AddDepthwiseConv2D(const TFLMRegistration& = {}) { return add(); }
  TfLiteStatus AddFullyConnected(const TFLMRegistration& = {}) { return add(); }
  TfLiteStatus AddLogistic() { return add(); }
  TfLiteStatus AddReshape() { return add(); }
  TfLiteStatus AddSoftmax() { return add(); }

 private:
  TfLiteStatus add() { return count_++ < tOpCount ? kTfLiteOk : kTfLiteError; }
  unsigned int count_ = 0;
};

}  // namespace tflite
