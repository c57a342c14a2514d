"""Timing tables of every format, in folders and in installed packages."""

import gzip
import importlib
import sys
from pathlib import Path

import polars as pl
import pytest

from afdjax._tools.files import FileError
from afdjax.calibrate.readers import TIMING_FORMATS, device_in, load_timings
from afdjax.calibrate.timings import COLUMNS, Timings
from tests.timing_tables import assert_row, refusal, written


@pytest.mark.parametrize(
    ("path", "device"),
    [
        ("data/H100-SXM-80GB_alltoall.csv", "h100"),
        ("a100_sxm/mla__vllm__0.14.0__generation_mla_perf.csv", "a100"),
        ("h100/gb200/x.csv", "gb200"),
        ("RTXPRO6000__Llama-3.1-8B__tp1__moe.csv", "rtx-pro-6000"),
        ("rtx_pro_6000/x.csv", "rtx-pro-6000"),
        ("NVIDIA H200", "h200"),
        ("Ascend 910C", "910c"),
        ("xh1000/h100user/x.csv", None),
    ],
)
def test_device_in(path, device):
    assert device_in(path) == device == device_in(Path(path))


# the formats: header, one or more rows, file name, what the first row must be

AIC = "mla__trtllm__1.3.0rc20__mla_generation_module_perf.csv"
SAMPLES: dict[str, tuple[str, str, dict]] = {
    "tidy": ("h100/t.csv", "component,latency,unit,tokens\nffn,4,us,8\n", {"latency_us": 4.0, "device": "h100"}),
    "AIConfigurator attention": (
        "gb200/trtllm/1.0/generation_attention_perf.csv",
        "framework,version,device,op_name,kernel_source,batch_size,isl,num_heads,num_key_value_heads,head_dim,beam_width,"
        "window_size,attn_dtype,kv_cache_dtype,step,latency\n"
        "TRTLLM,1.0,NVIDIA H100 80GB HBM3,generation_attention,k,4,1,64,8,128,1,0,bfloat16,fp8,7,0.5\n",
        {
            "operation": "framework=trtllm,version=1.0,op_name=generation_attention,kernel_source=k,attn_dtype=bfloat16,"
            "kv_cache_dtype=fp8,num_heads=64,num_key_value_heads=8,head_dim=128,window_size=0,beam_width=1",
            "device": "h100",
            "batch": 4.0,
            "context": 8.0,
            "tokens": 32.0,
            "latency_us": 500.0,
            "bytes_per_token": 2048.0,
            "flops_per_token": 32768.0,
            "precision": "fp8",
        },
    ),
    "AIConfigurator latent attention": (
        f"h100_sxm/{AIC}",
        "kernel_source,model,mla_dtype,kv_cache_dtype,gemm_type,num_heads,batch_size,isl,tp_size,step,latency\n"
        "default,deepseek-ai/DeepSeek-V3,bfloat16,bfloat16,fp8_block,128,2,1,1,9,0.1\n",
        {
            "operation": "framework=trtllm,version=1.3.0rc20,kernel_source=default,model=deepseek-ai/DeepSeek-V3,"
            "mla_dtype=bfloat16,kv_cache_dtype=bfloat16,gemm_type=fp8_block,num_heads=128,tp_size=1",
            "device": "h100",
            "tokens": 20.0,
            "latency_us": 100.0,
            "bytes_per_token": 1152.0,
            "flops_per_token": 278528.0,
            "precision": "bfloat16",
        },
    ),
    "AIConfigurator MoE": (
        "moe_perf.csv",
        "kernel_source,moe_dtype,num_tokens,hidden_size,inter_size,topk,num_experts,moe_tp_size,moe_ep_size,distribution,"
        "latency\nk,w4a16_mxfp4,16,2880,2880,4,128,1,2,balanced,0.2\n",
        {
            "component": "ffn",
            "tokens": 16.0,
            "latency_us": 200.0,
            "precision": "bfloat16",
            "device": None,
            "flops_per_token": 99532800.0,
        },
    ),
    "AIConfigurator all-to-all": (
        "trtllm_alltoall_perf.csv",
        "op_name,kernel_source,moe_dtype,num_tokens,hidden_size,topk,num_experts,moe_ep_size,distribution,latency\n"
        "alltoall_prepare,NVLinkTwoSided,nvfp4,8,7168,8,256,4,balanced,0.01\n",
        {"component": "communication", "tokens": 8.0, "latency_us": 10.0},
    ),
    "AIConfigurator GEMM": (
        "gemm_perf.csv",
        "kernel_source,gemm_dtype,m,n,k,latency\nlin,fp8_block,8,16384,7168,5.3\n",
        {
            "operation": "kernel_source=lin,gemm_dtype=fp8_block,n=16384,k=7168",
            "tokens": 8.0,
            "precision": "fp8",
            "weight_bytes": 117440512.0,
            "bytes_per_token": 39936.0,
            "flops_per_token": 234881024.0,
        },
    ),
    "AIConfigurator NCCL": (
        "nccl_perf.csv",
        "op_name,kernel_source,nccl_dtype,num_gpus,message_size,latency\nall_gather,NCCL,half,2,256,0.005\n",
        {
            "operation": "op_name=all_gather,kernel_source=NCCL,nccl_dtype=half,num_gpus=2",
            "tokens": 256.0,
            "bytes_per_token": 1.0,
        },
    ),
    "AIConfigurator DeepEP low latency": (
        "ll_perf.csv",
        "kernel_source,node_num,hidden_size,num_token,num_topk,num_experts,combine_avg_t_us,dispatch_avg_t_us\n"
        "deepep,1,2048,4,8,128,11.5,10.5\n",
        {
            "operation": "phase=dispatch,kernel_source=deepep,node_num=1,hidden_size=2048,num_topk=8,num_experts=128",
            "latency_us": 10.5,
            "tokens": 4.0,
        },
    ),
    "AIConfigurator DeepEP normal": (
        "normal_perf.csv",
        "kernel_source,node_num,hidden_size,num_token,num_topk,num_experts,dispatch_sms,dispatch_transmit_us,"
        "dispatch_notify_us,combine_sms,combine_transmit_us,combine_notify_us\ndeepep,1,2048,4,8,128,12,25,3,16,29,1\n",
        {
            "operation": "phase=dispatch,kernel_source=deepep,node_num=1,hidden_size=2048,num_topk=8,num_experts=128,sms=12",
            "latency_us": 28.0,
        },
    ),
    "InferSim attention": (
        "mha__decode__h800__32-8-128.csv",
        "dtype,kv_dtype,batch_size,kv_len,latency_us,mfu\nbf16,bf16,2,1024,34.9,0\n",
        {
            "operation": "num_heads=32,num_key_value_heads=8,head_dim=128,dtype=bf16,kv_dtype=bf16",
            "device": "h800",
            "tokens": 2048.0,
            "bytes_per_token": 4096.0,
            "flops_per_token": 16384.0,
            "precision": "bfloat16",
        },
    ),
    "InferSim indexer": (
        "dsa/decode/h800/logits-64-128.csv",
        "batchsize,next_n,s_kv,latency_us,mfu\n64,1,1024,9.1,0.06\n",
        {"operation": "kernel=logits-64-128,next_n=1", "tokens": 65536.0, "device": "h800"},
    ),
    "InferSim GEMM": ("data.csv", "m,k,n,latency_us,mfu\n16,7168,1536,16.4,0\n", {"operation": "n=1536,k=7168"}),
    "InferSim grouped GEMM": (
        "data.csv",
        "num_experts,num_gpus,num_local_experts,topk,hidden_size,intermediate_size,batch_size_per_gpu,tokens_per_expert,"
        "up_proj_us,up_mfu,down_proj_us,down_mfu\n256,4,64,8,7168,2048,32,1,100.5,0,50.25,0\n",
        {"component": "ffn", "tokens": 32.0, "latency_us": 150.75, "flops_per_token": 704643072.0},
    ),
    "Vidur MLP": (
        "a100/meta-llama/Llama-2-70b-hf/mlp.csv",
        "num_tokens,num_tensor_parallel_workers,attn_pre_proj_ms,mlp_up_proj_ms,mlp_act_ms,mlp_down_proj_ms\n8,2,9,1,0.5,2\n",
        {
            "operation": "model=Llama-2-70b-hf,num_tensor_parallel_workers=2",
            "latency_us": 3500.0,
            "device": "a100",
        },
    ),
    "Vidur network": (
        "a100_dgx_send_recv.csv",
        "num_workers,devices_per_node,size,median_ms,std_ms\n2,1,2048,0.02,0.001\n",
        {
            "operation": "collective=send_recv,num_workers=2,devices_per_node=1",
            "spread_us": 1.0,
            "tokens": 2048.0,
            "bytes_per_token": 1.0,
        },
    ),
    "Frontier attention": (
        "h800__Llama-3.1-405B__attention.csv",
        "num_tensor_parallel_workers,n_q_head,n_kv_head,n_embd,batch_size,kv_cache_size,attn_decode_median_ms,"
        "attn_decode_std_ms\n4,128,8,16384,2,64,0.5,0.1\n16,128,8,16384,2,64,0.5,0\n",
        {
            "operation": "model=Llama-3.1-405B,n_q_head=128,n_kv_head=8,n_embd=16384,num_tensor_parallel_workers=4",
            "bytes_per_token": 1024.0,
            "flops_per_token": 16384.0,
            "spread_us": 100.0,
        },
    ),
    "Frontier MoE": (
        "h800__Qwen3-30B-A3B-tiny__moe_kernel_only.csv",
        "num_tokens,num_experts,num_experts_per_device,expert_parallel_size,router_topk,hidden_dim,expert_hidden_dim,"
        "num_tensor_parallel_workers,load_distribution,load_imbalance_cv,moe_grouped_gemm_median_ms\n"
        "8,16,8,2,8,2048,768,1,uniform,0.3,0.0367\n",
        {"component": "ffn", "tokens": 8.0, "latency_us": 36.7, "device": "h800", "flops_per_token": 37748736.0},
    ),
    "LLMServingSim attention": (
        "RTXPRO6000__Llama-3.1-8B__tp1__attention.csv",
        "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n512,0,4,16,99\n0,0,4,16,8.5\n",
        {"operation": "model=Llama-3.1-8B", "device": "rtx-pro-6000", "tokens": 64.0, "latency_us": 8.5},
    ),
    "LLMServingSim skew": (
        "skew.csv",
        "regime,n,nb,pc,kp,kvs,kv_big,kv_mean,t_mean_us,t_max_us,t_skew_us\npure,2,1,0,0,128,512,320,46.5,50,47\n",
        {"operation": "table=skew", "tokens": 640.0, "latency_us": 46.5},
    ),
    "LLMServingSim dense": ("dense.csv", "layer,tokens,time_us\nact_fn,3,2.5\n", {"operation": "layer=act_fn"}),
    "LLMServingSim MoE": (
        "moe.csv",
        "tokens,activated_experts,time_us\n1,8,50.5\n",
        {"operation": "activated_experts=8", "latency_us": 50.5},
    ),
    "DeepEP": (
        "low_latency_h800.csv",
        "ep,dispatch_us,dispatch_rdma_GBps,combine_us,combine_rdma_GBps\n8,77,98,114,127\n",
        {"operation": "phase=dispatch,ep=8", "tokens": 128.0, "latency_us": 77.0, "device": "h800"},
    ),
    "APEX NCCL": (
        "H100-SXM-80GB_all_gather.csv",
        "gpu,num_nodes,num_gpus_per_node,dtype,size(kb),time(us)\nH100-SXM-80GB,1,8,half,0,12\nH100-SXM-80GB,1,8,float,2,13\n",
        {
            "operation": "collective=all_gather,num_nodes=1,num_gpus_per_node=8,dtype=float",
            "tokens": 512.0,
            "bytes_per_token": 3.5,
            "latency_us": 13.0,
            "device": "h100",
        },
    ),
    "NCCL tests": (
        "run.log",
        """# nThread 1 nGpus 2 minBytes 8 maxBytes 1024 step: 2(factor) warmup iters: 5 iters: 20
# Collective test starting: all_reduce_perf
#  Rank  0 Group  0 Pid  1 on node device  0 [0000:07:00] NVIDIA H100 80GB HBM3
#  Rank  1 Group  0 Pid  1 on node device  1 [0000:0b:00] NVIDIA H100 80GB HBM3
#
#                                                              out-of-place                       in-place
#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
           0             0      half     sum      -1     0.20    0.00    0.00      0     0.18    0.00    0.00      0
         512           256      half     sum      -1    12.50    0.04    0.04      0    12.00    0.04    0.04      0
        1024           512      half     sum      -1    13.50    0.08    0.08    N/A    13.00    0.08    0.08    N/A
# Out of bounds values : 0 OK
# Avg bus bandwidth    : 0.06
""",
        {
            "operation": "collective=all_reduce,type=half,num_gpus=2",
            "tokens": 256.0,
            "bytes_per_token": 2.0,
            "latency_us": 12.5,
            "device": "h100",
        },
    ),
    "Splitwise": (
        "perf_model.csv",
        "model,hardware,tensor_parallel,prompt_size,batch_size,token_size,prompt_time,token_time,e2e_time\n"
        "llama2-70b,h100-80gb-pcap,2,512,4,128,196,54.5,7168\n",
        {
            "component": "step",
            "operation": "model=llama2-70b,hardware=h100-80gb-pcap,tensor_parallel=2",
            "device": "h100",
            "tokens": 2304.0,
            "latency_us": 54500.0,
        },
    ),
    "InferenceX": (
        "tpot.csv",
        "model,run,isl,osl,concurrency,median_tpot_s\nglm-5,a,1024,128,4,0.02\n",
        {"component": "step", "operation": "model=glm-5,run=a", "tokens": 4352.0, "latency_us": 20000.0},
    ),
}


def measured(timings: Timings) -> pl.DataFrame:
    """What was measured, wherever it stands."""
    return timings.frame.drop("file")


def test_every_format_has_a_sample():
    assert set(SAMPLES) == {known.name for known in TIMING_FORMATS}


@pytest.mark.parametrize("name", SAMPLES)
def test_formats(tmp_path, name):
    file, text, wanted = SAMPLES[name]
    timings = load_timings(written(tmp_path, text, file))
    assert dict(timings.frame.schema) == COLUMNS
    first = timings.frame.row(0, named=True)
    assert_row(first, wanted)
    zipped = load_timings(written(tmp_path, gzip.compress(text.encode()), f"{file}.gz"))
    assert measured(zipped).equals(measured(timings))
    assert zipped.digest() == timings.digest()


@pytest.mark.parametrize("name", sorted(set(SAMPLES) - {"NCCL tests"}))
def test_formats_in_parquet(tmp_path, name):
    file, text, _ = SAMPLES[name]
    path = tmp_path / Path(file).with_suffix(".parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    pl.read_csv(text.encode(), schema_overrides={"version": pl.String}).write_parquet(path)
    assert measured(load_timings(path)).equals(measured(load_timings(written(tmp_path, text, file))))


def test_phases_of_an_exchange_are_series(tmp_path):
    file, text, _ = SAMPLES["AIConfigurator DeepEP normal"]
    combine = load_timings(written(tmp_path, text, file)).select(operation_contains="phase=combine,sms=16")
    assert combine.frame["latency_us"].to_list() == [30.0]


def test_several_tests_in_one_log(tmp_path):
    file, text, _ = SAMPLES["NCCL tests"]
    both = load_timings(written(tmp_path, text + text.replace("all_reduce_perf", "alltoall_perf"), file))
    assert [(key.operation.split(",")[0], len(part)) for key, part in both.groups()] == [
        ("collective=all_reduce", 2),
        ("collective=alltoall", 2),
    ]


def test_a_kv_head_is_not_divided(tmp_path):
    file, text, _ = SAMPLES["Frontier attention"]
    assert load_timings(written(tmp_path, text, file)).frame["bytes_per_token"].to_list() == [1024.0, 512.0]


def test_costs_that_are_not_known(tmp_path):
    file, text, _ = SAMPLES["AIConfigurator latent attention"]
    for sparse in (text.replace("DeepSeek-V3,", "DeepSeek-V3.2,"), text):
        name = file if sparse != text else file.replace("mla_generation", "dsa_generation")
        row = load_timings(written(tmp_path, sparse, name)).frame.row(0, named=True)
        assert row["bytes_per_token"] is None and row["flops_per_token"] is None
    file, text, _ = SAMPLES["AIConfigurator attention"]
    windowed = load_timings(written(tmp_path, text.replace(",1,0,bfloat16", ",1,128,bfloat16"), file)).frame
    assert windowed["bytes_per_token"].to_list() == [None]
    file, text, _ = SAMPLES["InferSim attention"]
    row = load_timings(written(tmp_path, text, "attn-128-576-2048.csv")).frame.row(0, named=True)
    assert row["bytes_per_token"] is None and row["operation"].startswith("kernel=attn-128-576-2048")
    row = load_timings(written(tmp_path, text, "128-512-64.csv")).frame.row(0, named=True)
    assert (row["bytes_per_token"], row["flops_per_token"]) == (1152.0, 278528.0)


def test_prefill_tables_are_refused(tmp_path):
    file, text, _ = SAMPLES["AIConfigurator attention"]
    name = file.replace("generation", "context")
    assert "prefill timings" in refusal(written(tmp_path, text, name))
    assert "prefill timings" in refusal(written(tmp_path, text.replace("generation_", "context_"), file))


def test_problems_in_known_formats_name_the_row(tmp_path):
    file, text, _ = SAMPLES["DeepEP"]
    assert refusal(written(tmp_path, text + "16,0,1,2,3\n", file)).startswith("row 2: `latency` must be")
    file, text, _ = SAMPLES["AIConfigurator NCCL"]
    assert refusal(written(tmp_path, text + "a,b,c,2,many,4\n", file)).startswith("row 2: `tokens` must be")
    file, text, _ = SAMPLES["NCCL tests"]
    lines = text.splitlines(keepends=True)
    assert "line 11: must have 13 values" in refusal(written(tmp_path, "".join(lines[:-3]) + "1024 512 half\n", file))
    assert "has no results" in refusal(written(tmp_path, "".join(lines[:8]), file))
    only_zero = refusal(written(tmp_path, "".join(lines[:9]), file))
    assert "at least one timing" in only_zero


def test_folders(tmp_path):
    for name, (file, text, _) in SAMPLES.items():
        written(tmp_path, text, f"{name}/{file}")
    written(tmp_path, "a,b\n1,2\n", "other.csv")
    written(tmp_path, "words, that\nare, no, table\n", "notes.txt")
    written(tmp_path, "# Notes", "README.md")
    written(tmp_path, "", "empty.csv")
    timings = load_timings(tmp_path)
    alone = [load_timings(tmp_path / name / file) for name, (file, _, _) in sorted(SAMPLES.items())]
    assert timings.frame.sort(pl.all()).equals(Timings.join(alone).frame.sort(pl.all()))
    written(tmp_path, "component,latency,unit,tokens\nffn,0,us,8\n", "bad.csv")
    with pytest.raises(FileError, match=r"bad\.csv: row 1: `latency`"):
        load_timings(tmp_path)


# the installed package of tables


@pytest.fixture
def installed(tmp_path, monkeypatch) -> Path:
    """A package that fails when it is imported, with one table."""
    package = tmp_path / "site" / "aiconfigurator_core"
    written(package, "raise ImportError('must not be imported')", "__init__.py")
    folder = package / "systems" / "data" / "h100_sxm"
    _, text, _ = SAMPLES["AIConfigurator attention"]
    table = folder / "attention" / "trtllm" / "1.0" / "generation_attention_perf.parquet"
    table.parent.mkdir(parents=True)
    pl.read_csv(text.encode(), schema_overrides={"version": pl.String}).write_parquet(table)
    pl.DataFrame({"a": [1]}).write_parquet(table.with_name("other_perf.parquet"))
    pl.read_parquet(table).write_parquet(table.with_name("context_attention_perf.parquet"))
    monkeypatch.syspath_prepend(package.parent)
    importlib.invalidate_caches()
    return table


TABLE = "attention/trtllm/1.0/generation_attention_perf.parquet"


@pytest.mark.parametrize("part", ["", "/attention", "/attention/trtllm/1.0", f"/{TABLE}"])
def test_installed_tables(installed, part):
    timings = load_timings(f"aiconfigurator:h100_sxm{part}")
    assert timings.frame["context"].to_list() == [8.0]
    assert timings.source == str(installed)
    assert "aiconfigurator_core" not in sys.modules


def test_installed_tables_that_are_not_there(installed):
    assert "'h100' is not one of h100_sxm (did you mean h100_sxm?)" in refusal("aiconfigurator:h100/attention")
    assert "'moe' is not one of attention" in refusal("aiconfigurator:h100_sxm/moe")


def test_tables_of_a_distribution_with_another_layout(tmp_path, monkeypatch):
    site = tmp_path / "site"
    _, text, _ = SAMPLES["AIConfigurator NCCL"]
    table = written(site, text, "elsewhere/systems/data/h100_sxm/comm/nccl/2.0/nccl_perf.csv")
    meta = site / "aisimulate-0.13.0.dist-info"
    written(meta, "Metadata-Version: 2.1\nName: aisimulate\nVersion: 0.13.0\n", "METADATA")
    written(meta, f"{table.relative_to(site).as_posix()},,\n", "RECORD")
    monkeypatch.syspath_prepend(site)
    importlib.invalidate_caches()
    assert load_timings("aiconfigurator:h100_sxm").frame["device"].to_list() == ["h100"]


def test_no_package(monkeypatch):
    monkeypatch.setattr("afdjax.calibrate.readers.places.MODULES", ())
    monkeypatch.setattr("afdjax.calibrate.readers.places.DISTRIBUTIONS", ("surely-not-installed-anywhere",))
    assert "pip install aiconfigurator-core" in refusal("aiconfigurator:h100_sxm")
