/* The one thing that is taken from PyTorch itself: cuDNN, which has no replacement here, is always switched off.

   These are functions of at::Context, whose callers come to us first because we are loaded first. Convolutions
   then go through their other forms, and `torch.backends.cudnn.enabled` is False whatever is assigned to it.

   Attention by cuDNN is switched off as well, unless NULL_GPU_CUDNN_ATTENTION is set: then PyTorch's own switch counts,
   and cudnn_attention.py has to take the place of the operators. */

#include <stdlib.h>

#include "null_gpu.h"

bool _ZNK2at7Context16userEnabledCuDNNEv(const void *);
bool _ZNK2at7Context19userEnabledCuDNNSDPEv(const void *);
void _ZN2at7Context14setSDPUseCuDNNEb(void *, bool);

static bool attention_switched_on = true;

EXPORTED bool _ZNK2at7Context16userEnabledCuDNNEv(const void *context) { /* userEnabledCuDNN() */
    (void)context;
    return false;
}

EXPORTED bool _ZNK2at7Context19userEnabledCuDNNSDPEv(const void *context) { /* userEnabledCuDNNSDP() */
    (void)context;
    return attention_switched_on && getenv("NULL_GPU_CUDNN_ATTENTION") != NULL;
}

EXPORTED void _ZN2at7Context14setSDPUseCuDNNEb(void *context, bool on) { /* setSDPUseCuDNN(on) */
    (void)context;
    attention_switched_on = on;
}
