// The whole backward pass of a layer of tiles: its epilogue's, and both gradients of its convolution, in one call.
#include "element.h"
#include "parallel.h"

namespace pggan::PGGAN_ISA {

int tiled_layer_backward(const TiledLayerBackward& a) {
  const Shape& s = a.epilogue.shape;
  return dispatch(a.epilogue.dtype, [&](auto t) {
    const Scratch<typename decltype(t)::T> du(s.n * s.c * s.h * s.w);
    if (!du) return static_cast<int>(NO_MEMORY);
    BiasActBackward epilogue = a.epilogue;
    epilogue.du = du.data;
    int status = bias_act_backward(epilogue);
    if (status == OK && a.input_grad.y) {
      TiledConv conv = a.input_grad;
      conv.x = du.data;
      status = tiled_conv(conv);
    }
    if (status == OK && a.weight_grad.dw) {
      TiledConvWeightGrad conv = a.weight_grad;
      conv.dy = du.data;
      status = tiled_conv_weight_grad(conv);
    }
    return status;
  });
}

}  // namespace pggan::PGGAN_ISA
