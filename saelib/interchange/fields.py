"""Settings of other libraries that do not change what an SAE computes: its model, its tokens, its training.

The names are those that any release has written into an SAE's own file. A setting that is in none of these lists and
that no format reads is refused by name.
"""

_MODEL_AND_TOKENS = """
    model_name model_class_name model_kwargs model_from_pretrained_kwargs hook_name hook_layer hook_head_index
    hook_eval hook_point hook_point_layer hook_point_head_index hook_point_eval hf_hook_name dataset_path
    dataset_trust_remote_code streaming is_dataset_tokenized context_size prepend_bos seqpos_slice
    exclude_special_tokens disable_concat_sequences sequence_separator_token use_cached_activations
    cached_activations_path neuronpedia_id use_chat_formatting activations_mixing_fraction
"""
_TRAINING = """
    expansion_factor b_dec_init_method from_pretrained_path decoder_init_norm decoder_orthogonal_init
    decoder_heuristic_init decoder_heuristic_init_norm init_encoder_as_decoder_transpose normalize_sae_decoder
    noise_scale mse_loss_normalization l1_coefficient lp_norm l1_warm_up_steps scale_sparsity_penalty_by_decoder_norm
    l0_coefficient l0_warm_up_steps target_l0 pre_act_loss_coefficient aux_loss_coefficient use_sparse_activations
    jumprelu_init_threshold jumprelu_bandwidth jumprelu_sparsity_loss_mode jumprelu_tanh_scale jumprelu_ste_to_input
    topk_threshold_lr matryoshka_widths use_matryoshka_aux_loss use_ghost_grads finetuning_tokens finetuning_method
    n_batches_in_buffer training_tokens total_training_tokens store_batch_size store_batch_size_prompts
    train_batch_size train_batch_size_tokens adam_beta1 adam_beta2 lr lr_scheduler_name lr_warm_up_steps lr_end
    lr_decay_steps n_restart_cycles feature_sampling_method feature_sampling_window dead_feature_window
    dead_feature_threshold dead_feature_estimation_method resample_batches feature_reinit_scale n_eval_batches
    n_eval_seqs eval_batch_size_prompts tokens_per_buffer shuffle_buffer_size n_batches_for_norm_estimate
"""
_RUN = """
    device act_store_device dtype seed autocast autocast_lm compile_llm llm_compilation_mode compile_sae
    sae_compilation_mode log_to_wandb log_activations_store_to_wandb log_optimizer_state_to_wandb wandb_project
    wandb_id run_name wandb_entity wandb_log_frequency eval_every_n_wandb_logs resume resume_from_checkpoint
    n_checkpoints checkpoint_path save_final_checkpoint output_path verbose sae_lens_version sae_lens_training_version
    logger llm_device prefetch_llm_batches log_weights_to_wandb
"""
SAELENS = frozenset(f"{_MODEL_AND_TOKENS} {_TRAINING} {_RUN}".split())
"""Settings of SAELens since 0.1, whose first releases wrote all settings of a run into cfg.json."""

_TRAINER = """
    trainer_class wandb_name device layer lm_name submodule_name seed lr steps warmup_steps decay_start resample_steps
    lambda_warm_steps k_anneal_steps auxk_alpha top_k_aux threshold_beta threshold_start_step bandwidth target_l0
    l0_penalty l1_penalty sparsity_penalty sparsity_coefficient sparsity_function sparsity_warmup_steps
    adaptive_sparsity_penalty sparsity_queue_length sparsity_loss_queue_length activation_queue_length
    n_sparsity_updates steps_before_annealing anneal_start p_start p_end gp_reg_coeff group_fractions group_weights
    group_sizes weights_temperature
"""
DICTIONARY_LEARNING = frozenset(_TRAINER.split())
"""Settings of a dictionary_learning trainer."""

SPARSIFY = frozenset({"normalize_decoder", "multi_topk"})
"""Settings of sparsify: how its training normalizes the decoder, and its loss."""
