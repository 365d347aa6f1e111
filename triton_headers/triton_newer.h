/* Functions younger than the oldest supported server: looked up one by one, each may be missing.
 * In brackets: the oldest server (and its API) among those we try that has it.
 */
#ifndef TRITON_NEWER_H
#define TRITON_NEWER_H

#include "triton_backend.h"

/* [server 2.44, backend API 1.19] Without it a client that went away is not noticed. */
TRITONSERVER_Error* TRITONBACKEND_ResponseFactoryIsCancelled(
    TRITONBACKEND_ResponseFactory* factory, bool* cancelled);

/* [server 2.36] What a client asks for beside its tensors. A TRITONBACKEND_Request is the same
 * object under another name. */
typedef struct TRITONSERVER_InferenceRequest TRITONSERVER_InferenceRequest;
TRITONSERVER_Error* TRITONSERVER_InferenceRequestTimeoutMicroseconds(
    TRITONSERVER_InferenceRequest* request, uint64_t* timeout_us);
TRITONSERVER_Error* TRITONSERVER_InferenceRequestPriorityUInt64(
    TRITONSERVER_InferenceRequest* request, uint64_t* priority);

/* [server 2.51, server API 1.34] Histograms. Without them counters and gauges remain. */
typedef struct TRITONSERVER_MetricArgs TRITONSERVER_MetricArgs;
TRITONSERVER_Error* TRITONSERVER_MetricArgsNew(TRITONSERVER_MetricArgs** args);
TRITONSERVER_Error* TRITONSERVER_MetricArgsSetHistogram(
    TRITONSERVER_MetricArgs* args, const double* buckets, uint64_t bucket_count);
TRITONSERVER_Error* TRITONSERVER_MetricArgsDelete(TRITONSERVER_MetricArgs* args);
TRITONSERVER_Error* TRITONSERVER_MetricNewWithArgs(
    TRITONSERVER_Metric** metric, TRITONSERVER_MetricFamily* family,
    const TRITONSERVER_Parameter** labels, uint64_t label_count,
    const TRITONSERVER_MetricArgs* args);
TRITONSERVER_Error* TRITONSERVER_MetricObserve(TRITONSERVER_Metric* metric, double value);

#endif
