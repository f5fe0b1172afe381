/* The one thing that is taken from PyTorch itself: cuDNN, which has no replacement here, is always switched off.

   These are the getters of at::Context, whose callers come to us first because we are loaded first. Convolutions
   then go through their other forms, and `torch.backends.cudnn.enabled` is False whatever is assigned to it. */

#include "null_gpu.h"

bool _ZNK2at7Context16userEnabledCuDNNEv(const void *);
bool _ZNK2at7Context19userEnabledCuDNNSDPEv(const void *);

EXPORTED bool _ZNK2at7Context16userEnabledCuDNNEv(const void *context) { /* userEnabledCuDNN() */
    (void)context;
    return false;
}

EXPORTED bool _ZNK2at7Context19userEnabledCuDNNSDPEv(const void *context) { /* userEnabledCuDNNSDP() */
    (void)context;
    return false;
}
